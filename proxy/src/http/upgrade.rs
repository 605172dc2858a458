//! Connections that change their protocol (WebSocket and others): after the 101 bytes pass both ways untouched.

use std::{rc::Rc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{attempt::Hold, finish::Finish};
use crate::{
    net::copy::{self, Direction},
    rt::task,
    worker::Worker,
};

/// How long both sides may be silent (Envoy's default stream idle timeout is 5 min; its TCP default is 1 h).
const IDLE: Duration = Duration::from_secs(3600);

/// Joins the two connections once both have switched. Drain breaks the connection off at its end.
pub fn splice(worker: &Rc<Worker>, client: OnUpgrade, server: OnUpgrade, mut finish: Finish, hold: Hold) {
    let forced = worker.drain.forced();
    let guard = worker.drain.guard();
    task::spawn_local_connection("upgraded connection", async move {
        let _open = (guard, hold);
        let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let count = |direction, bytes| match direction {
            Direction::Forth => finish.request_bytes += bytes,
            Direction::Back => finish.response_bytes += bytes,
        };
        tokio::select! {
            _ended = copy::bidirectional(&mut client, &mut server, IDLE, count) => {}
            () = forced => {}
        }
    });
}
