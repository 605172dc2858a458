//! Which of the connected proxies can be asked about their traffic.

use std::net::SocketAddr;

use pillion_policy::identity::Identity;
use tokio::sync::mpsc;

use super::State;
use crate::serve::observe::{Observer, Posed};

impl State {
    /// Takes the way to ask a proxy: the one whose discovery stream is on the connection from `peer`, and which has
    /// proved the same identity on it. Says whether there is one. The way goes with that stream.
    pub(super) fn attach(
        &mut self,
        peer: SocketAddr,
        identity: Option<&Identity>,
        ask: mpsc::Sender<Posed>,
    ) -> bool {
        let is_same =
            |proxy: &&mut super::Proxy| proxy.peer == Some(peer) && proxy.identity.as_ref() == identity;
        match self.proxies.values_mut().find(is_same) {
            Some(proxy) => {
                proxy.ask = Some(ask);
                true
            }
            None => false,
        }
    }

    /// Every proxy that has said who it is.
    pub(super) fn observers(&self) -> Vec<Observer> {
        let observers = self.proxies.iter().filter_map(|(id, proxy)| {
            let node = proxy.session.node()?;
            Some(Observer {
                id: *id,
                workload: node.workload.to_string(),
                ip: node.metadata.get("pod_ip").and_then(|ip| ip.parse().ok()),
                ask: proxy.ask.clone(),
            })
        });
        observers.collect()
    }
}
