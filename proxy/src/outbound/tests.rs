//! What a connection costs: every open one keeps these futures, so they must not grow unnoticed.

use std::{mem::size_of_val, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::Request;
use pillion_policy::name::Label;
use tokio::{net::TcpListener, sync::Notify, time::Instant};

use super::*;
use crate::{
    rt::drain::Drain,
    telemetry::{AccessLog, Metrics},
    upstream::pool::{Connector, Pools},
    view::Views,
    worker::{Demands, Settings},
};

/// Bytes of the future of a connection, HTTP/1 with its state included.
const CONNECTION: usize = 4096;

/// Bytes of the future of a request, which hyper keeps a place for on every HTTP/1 connection.
const REQUEST: usize = 6656;

fn worker() -> Rc<Worker> {
    let settings = Settings {
        namespace: Label::new("default").unwrap(),
        hold_timeout: Duration::from_secs(1),
        outbound_mode: None,
        max_header_bytes: 65536,
        max_headers: 256,
    };
    let connector = Connector {
        max_header_bytes: 65536,
        max_headers: 256,
        pressure: Arc::new([Notify::new()]),
        wallet: Arc::default(),
        metrics: Arc::default(),
    };
    let shared = (Drain::new(), AccessLog::disabled(), Metrics::new(), Arc::default());
    Rc::new(Worker::new(
        Arc::new(Views::new(Instant::now())),
        Pools::new(connector),
        Arc::new(settings),
        Demands::new().0,
        shared,
        fastrand::Rng::with_seed(1),
    ))
}

#[tokio::test]
async fn futures_stay_small() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let of_connection = size_of_val(&connection(worker(), stream, peer));
    let of_request = size_of_request(|request: Request<Incoming>| {
        let downstream = Rc::new(Downstream::new(&worker(), Direction::Outbound, (peer, peer, None), false));
        handle(Rc::new(Outbound { downstream, passthrough: std::cell::OnceCell::new() }), request)
    });
    assert!(of_connection <= CONNECTION, "a connection takes {of_connection} bytes");
    assert!(of_request <= REQUEST, "a request takes {of_request} bytes");
}

/// The size of the future a handler returns, without a request to call it with.
fn size_of_request<F: Future<Output = Response<Body>>>(_: impl Fn(Request<Incoming>) -> F) -> usize {
    size_of::<F>()
}
