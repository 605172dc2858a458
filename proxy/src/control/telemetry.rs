//! What policy wants told, passed on to those who tell it.
//!
//! Exporters live below policy and know nothing of views; they watch the one value this task keeps. It changes only when
//! what concerns them does. The access log is told at the same time.

use std::{convert::Infallible, future::pending, sync::Arc};

use tokio::sync::watch;

use crate::{
    telemetry::{AccessLog, otlp::Wanted},
    view::{View, Views},
};

/// Keeps `wanted` and the access log as the view of the moment says.
pub async fn follow(views: Arc<Views>, wanted: watch::Sender<Wanted>, access_log: AccessLog) -> Infallible {
    let mut news = views.subscribe();
    loop {
        let now = wants(&views.load());
        wanted.send_if_modified(|before| {
            if before.telemetry.access_log != now.telemetry.access_log {
                access_log.apply(now.telemetry.access_log.as_ref());
            }
            let is_new = *before != now;
            *before = now;
            is_new
        });
        if news.changed().await.is_err() {
            return pending().await;
        }
    }
}

fn wants(view: &View) -> Wanted {
    Wanted {
        collector: view.mesh.as_ref().and_then(|mesh| mesh.collector.clone()),
        telemetry: view.workload.as_ref().map(|own| own.policy().telemetry.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use pillion_policy::{
        mesh::MeshConfig,
        telemetry::{Collector, OtlpProtocol},
    };
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn only_what_concerns_exporters_is_passed_on() {
        let views = Arc::new(Views::new(Instant::now()));
        let (sender, mut wanted) = watch::channel(Wanted::default());
        let mut following = Box::pin(follow(Arc::clone(&views), sender, AccessLog::disabled()));
        assert!(futures_util::poll!(&mut following).is_pending());
        assert!(!wanted.has_changed().unwrap(), "nothing is known yet");
        let mut mesh = MeshConfig {
            cluster_domain: "cluster.local".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            trust_domain_aliases: Vec::new(),
            trust: None,
            outbound: Default::default(),
            collector: None,
        };
        views.publish(View::new(1, Some(Arc::new(mesh.clone())), None));
        assert!(futures_util::poll!(&mut following).is_pending());
        assert!(!wanted.has_changed().unwrap(), "a mesh without a collector");
        let collector =
            Collector { endpoint: "http://collector:4317".to_owned(), protocol: OtlpProtocol::Grpc };
        mesh.collector = Some(collector.clone());
        views.publish(View::new(2, Some(Arc::new(mesh)), None));
        assert!(futures_util::poll!(&mut following).is_pending());
        assert_eq!(wanted.borrow_and_update().collector, Some(collector));
    }
}
