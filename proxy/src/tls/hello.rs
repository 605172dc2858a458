//! What a client says first, before anybody has answered: its ClientHello, read as it arrives.
//!
//! A port that takes plain text, mutual TLS and the application's own TLS must know which it is without taking part:
//! nothing is sent, and the bytes can be passed on as they came. [`Listening::hear`] has three answers, and what it has
//! said once does not change with more bytes.

use rustls::server::Acceptor;

/// Longest ClientHello that is listened to, in bytes. Ours have 1.5 KiB, most of it the key exchange.
const MAX_HELLO: usize = 16 * 1024;

/// What is known of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// Not all of it is there.
    NeedMore,
    /// It is none, or one that cannot be read.
    NotTls,
    /// It is complete.
    Is(Offer),
}

/// What a client offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The protocols it would speak, the most wanted first; may be empty.
    pub alpn: Vec<Box<[u8]>>,
    /// The name it asks for.
    pub sni: Option<Box<str>>,
}

/// Listens to the beginning of a connection.
#[derive(Default)]
pub struct Listening {
    acceptor: Acceptor,
    heard: usize,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Listening {
    /// Hears `bytes`, which follow what was heard before.
    pub fn hear(&mut self, mut bytes: &[u8]) -> Hello {
        self.heard = self.heard.saturating_add(bytes.len());
        while !bytes.is_empty() {
            // It reads a few thousand bytes at a time, and refuses to when it has more than it can use.
            match self.acceptor.read_tls(&mut bytes) {
                Ok(0) | Err(_) => return Hello::NotTls,
                Ok(_) => {}
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let alpn = hello.alpn().map(|names| names.map(Box::from).collect());
                    let sni = hello.server_name().map(Box::from);
                    return Hello::Is(Offer { alpn: alpn.unwrap_or_default(), sni });
                }
                Ok(None) => {}
                Err(_) => return Hello::NotTls,
            }
        }
        if self.heard < MAX_HELLO { Hello::NeedMore } else { Hello::NotTls }
    }
}

#[cfg(test)]
mod tests;
