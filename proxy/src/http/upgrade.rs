//! Connections that change their protocol (WebSocket and others): after the 101 bytes pass both ways untouched.
//!
//! The endpoint's 101 is its answer and is reported as one when the connection ends. A side that does not switch within
//! [`SWITCH`], because the rest of a request body is awaited or the connection is gone, breaks the exchange off and is
//! flagged like any other exchange that side breaks off.

use std::{future::pending, rc::Rc, time::Duration};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{attempt::Hold, finish::Finish};
use crate::{
    authz::Stay,
    error::Flag,
    net::copy::{self, Direction},
    rt::task,
    upstream::outcome::Outcome,
    worker::Worker,
};

/// How long both sides may be silent (Envoy's default stream idle timeout is 5 min; its TCP default is 1 h).
const IDLE: Duration = Duration::from_secs(3600);

/// How long the two connections may take to switch once 101 has been said; nothing but bytes on their way is in between.
const SWITCH: Duration = Duration::from_secs(10);

/// Joins the two connections once both have switched. Drain breaks the connection off at its end.
pub fn splice(worker: &Rc<Worker>, client: OnUpgrade, server: OnUpgrade, mut finish: Finish, hold: Hold) {
    let forced = worker.drain.forced();
    let guard = worker.drain.guard();
    let broken_off = finish.stay.as_ref().map(Stay::broken_off);
    task::spawn_local_connection("upgraded connection", async move {
        let _open = guard;
        tokio::select! {
            outcome = join(client, server, &mut finish) => finish.ejected(hold.fail(outcome)),
            () = forced => {}
            () = async { match broken_off { Some(broken_off) => broken_off.await, None => pending().await } } => {}
        }
    });
}

/// Carries bytes until both sides are done. Says what is to be told of the endpoint.
async fn join(client: OnUpgrade, server: OnUpgrade, finish: &mut Finish) -> Outcome {
    let due = Instant::now() + SWITCH;
    let Some(client) = switched(client, due).await else {
        finish.flag = Flag::Dc;
        return Outcome::Answered { status: finish.status, grpc_status: None };
    };
    let Some(server) = switched(server, due).await else {
        finish.flag = Flag::Ubo;
        return Outcome::Broken;
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    let count = |direction, bytes| match direction {
        Direction::Forth => finish.request_bytes += bytes,
        Direction::Back => finish.response_bytes += bytes,
    };
    // How a tunnel ends says nothing about the endpoint's health.
    let _ended = copy::bidirectional(&mut client, &mut server, IDLE, count).await;
    Outcome::Answered { status: finish.status, grpc_status: None }
}

async fn switched(connection: OnUpgrade, due: Instant) -> Option<Upgraded> {
    timeout_at(due, connection).await.ok()?.ok()
}
