//! Loopback addresses nobody else uses.
//!
//! Each test process takes whole /24 networks out of 127.0.0.0/8 and holds one by a bound UDP
//! socket, so that processes which run at the same time never meet. A test gives each of its "pods"
//! an address of its own; ports then need not differ and are the ones users know (15000, 15001 …).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The port whose binding on `.255` claims a network.
const CLAIM_PORT: u16 = 20_999;

struct Network {
    prefix: [u8; 3],
    next: u8,
    _claim: UdpSocket,
}

static CURRENT: Mutex<Option<Network>> = Mutex::new(None);

/// An unused loopback address.
pub fn unused() -> Result<IpAddr> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut network = match current.take() {
        Some(network) if network.next < 250 => network,
        _ => claim()?,
    };
    let [a, b, c] = network.prefix;
    let address = Ipv4Addr::new(a, b, c, network.next);
    network.next += 1;
    *current = Some(network);
    Ok(IpAddr::V4(address))
}

/// An unused loopback address with this port.
pub fn unused_at(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(unused()?, port))
}

fn claim() -> Result<Network> {
    (0..4096)
        .find_map(|_| {
            let prefix = [127, fastrand::u8(16..=254), fastrand::u8(..)];
            let [a, b, c] = prefix;
            let claim = UdpSocket::bind((Ipv4Addr::new(a, b, c, 255), CLAIM_PORT)).ok()?;
            // An exhausted network stays claimed by this process: its addresses are still in use.
            Some(Network { prefix, next: 1, _claim: claim })
        })
        .context("no free loopback network: are thousands of tests running?")
}
