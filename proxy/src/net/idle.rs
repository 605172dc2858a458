//! A kept connection that is looked at once more before it is used.
//!
//! A server may close an idle connection at any time, and until the poller has told of it a request is written to
//! nobody: whether it was carried out can then not be known, and one that must not be carried out twice is lost. On
//! [`Look::once_more`] the next read asks the kernel itself. The HTTP library reads from an idle connection before it
//! writes to it, so a connection that has ended is found out while the request is still untouched.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};

use super::rewind::Io;

/// Read at once from a connection on which nothing is expected.
const UNEXPECTED: usize = 256;

/// Asks for a look at a connection.
#[derive(Debug, Clone, Default)]
pub struct Look(Arc<AtomicBool>);

/// The near end of a connection to a server.
#[derive(Debug)]
pub struct ClientIo {
    io: Io,
    look: Look,
}

impl Look {
    /// Has the next read ask the kernel.
    pub fn once_more(&self) {
        self.0.store(true, Relaxed);
    }
}

impl ClientIo {
    /// A connection, and what asks for a look at it.
    pub fn new(io: Io) -> (Self, Look) {
        let look = Look::default();
        (Self { io, look: look.clone() }, look)
    }

    fn read_now(&self, room: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        SockRef::from(self.io.stream()).recv(room)
    }
}

impl hyper::rt::Read for ClientIo {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.look.0.load(Relaxed) {
            return hyper::rt::Read::poll_read(Pin::new(&mut this.io), cx, buf);
        }
        this.look.0.store(false, Relaxed);
        let mut bytes = [0; UNEXPECTED];
        let room = buf.remaining().min(UNEXPECTED);
        let mut read = ReadBuf::new(bytes.get_mut(..room).unwrap_or_default());
        if AsyncRead::poll_read(Pin::new(&mut this.io), cx, &mut read)?.is_ready() {
            buf.put_slice(read.filled());
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [MaybeUninit::uninit(); UNEXPECTED];
        match this.read_now(bytes.get_mut(..room).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
            // Whatever it says, it is not the answer to a request that was not sent.
            Ok(_) => Poll::Ready(Ok(())),
        }
    }
}

impl hyper::rt::Write for ClientIo {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        hyper::rt::Write::poll_write(Pin::new(&mut self.get_mut().io), cx, buf)
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Write::poll_flush(Pin::new(&mut self.get_mut().io), cx)
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Write::poll_shutdown(Pin::new(&mut self.get_mut().io), cx)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        hyper::rt::Write::poll_write_vectored(Pin::new(&mut self.get_mut().io), cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Empty;
    use hyper::{body::Bytes, client::conn::http1};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Without the poller having had a chance to tell, a request comes back untouched from a connection that ended.
    #[tokio::test]
    async fn a_connection_that_has_ended_is_found_out_before_it_is_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = listener.accept().await.unwrap().0;
        let (io, look) = ClientIo::new(Io::new(client));
        let (mut send, connection) = http1::handshake::<_, Empty<Bytes>>(io).await.unwrap();
        crate::rt::task::spawn_connection("test", async move {
            let _ended = connection.await;
        });
        let first = send.send_request(Request::new(Empty::new()));
        let serve = async {
            let mut head = [0; 1024];
            assert!(server.read(&mut head).await.unwrap() > 0);
            server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (response, ()) = tokio::join!(first, serve);
        assert_eq!(response.unwrap().status(), 204);
        send.ready().await.unwrap();
        // Dropped and used again without a wait in between: nobody has polled for events.
        drop(server);
        look.once_more();
        let mut failed = send.try_send_request(Request::new(Empty::new())).await.unwrap_err();
        assert!(failed.take_message().is_some());
    }
}
