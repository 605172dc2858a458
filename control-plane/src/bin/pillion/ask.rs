//! Questions to the admin port of the control plane.
//!
//! What tells of traffic is told to those who show a token. It would travel in plain text, so it is only shown to
//! this machine: to reach another one, forward its port.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use http::{
    Request, Uri,
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pillion_control_plane::{admin_token, read_token};
use tokio::{
    net::TcpStream,
    time::{Duration, timeout},
};

/// How long the control plane may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest line that is read, in bytes: a story with all its tries.
const MAX_LINE: usize = 1 << 20;

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// The admin port of the control plane
    #[arg(
        long,
        env = "PILLION_CONTROL_PLANE_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:15014"
    )]
    pub(crate) control_plane_admin: Uri,
}

/// What shows that one may be told of traffic.
#[derive(Debug, clap::Args)]
pub(crate) struct Proof {
    /// What the control plane has as its --state-dir, where it has one: a token in it proves that you may ask
    #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// A file with that token, in place of --state-dir
    #[arg(long, env = "PILLION_ADMIN_TOKEN_FILE", value_name = "FILE", conflicts_with = "state_dir")]
    admin_token_file: Option<PathBuf>,
}

impl Proof {
    /// The token, where there is to be one.
    fn token(&self) -> Result<Option<String>> {
        match (&self.admin_token_file, &self.state_dir) {
            (Some(file), _) => read_token(file).map(Some),
            (None, Some(dir)) => admin_token(dir).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl From {
    /// Gets a page that everybody may read.
    pub(crate) fn fetch(&self, path: &str) -> Result<String> {
        self.page(path, None)
    }

    /// Gets a page that tells of traffic.
    pub(crate) fn fetch_with(&self, path: &str, proof: &Proof) -> Result<String> {
        self.page(path, self.shown(proof)?)
    }

    fn page(&self, path: &str, token: Option<HeaderValue>) -> Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut page = Vec::new();
        let got = self.get(path, token, |bytes| {
            page.extend_from_slice(bytes);
            Ok(true)
        });
        let got = runtime.block_on(async { timeout(ANSWER_TIMEOUT, got).await });
        got.context("it did not answer in time").and_then(|got| got).with_context(|| self.hint())?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    /// Gets lines as they come, until there are no more or `each` has enough of them.
    pub(crate) fn follow(
        &self,
        path: &str,
        proof: &Proof,
        mut each: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let token = self.shown(proof)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut rest = Vec::new();
        let got = self.get(path, token, |bytes| {
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !each(String::from_utf8_lossy(&line).trim_end())? {
                    return Ok(false);
                }
            }
            if rest.len() > MAX_LINE {
                bail!("it sends a line of more than {MAX_LINE} bytes");
            }
            Ok(true)
        });
        runtime.block_on(got).with_context(|| self.hint())
    }

    /// The token as it is shown, if it may be.
    fn shown(&self, proof: &Proof) -> Result<Option<HeaderValue>> {
        let Some(token) = proof.token()? else { return Ok(None) };
        if !is_local(&self.control_plane_admin) {
            bail!(
                "{} is not on this machine, and the token would travel in plain text: forward the port (kubectl \
                 port-forward) and ask on 127.0.0.1",
                self.control_plane_admin
            );
        }
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn hint(&self) -> String {
        let admin = &self.control_plane_admin;
        format!("cannot ask the control plane at {admin}; give its admin address as --control-plane-admin")
    }

    /// Gets a page, which is handed over as it comes, until `each` has enough of it.
    async fn get(
        &self,
        path: &str,
        token: Option<HeaderValue>,
        mut each: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let admin = &self.control_plane_admin;
        if admin.scheme_str() != Some("http") {
            bail!("the address must start with http://");
        }
        let host = admin.host().context("the address has no host")?;
        let port = admin.port_u16().unwrap_or(80);
        let dial = timeout(ANSWER_TIMEOUT, TcpStream::connect((host.trim_matches(['[', ']']), port)));
        let stream = dial.await.context("no connection was made in time")??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let authority = admin.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new())?;
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let exchange = async {
            let response = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
            let response = response.context("it did not answer in time")??;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let text = body.collect().await?.to_bytes();
                bail!("{status}: {}", String::from_utf8_lossy(&text).trim());
            }
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data()
                    && !each(&data)?
                {
                    break;
                }
            }
            Ok(())
        };
        tokio::pin!(exchange, connection);
        let mut has_ended = false;
        loop {
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                // The exchange makes no progress unless the connection is polled; when that ends, it knows.
                ended = &mut connection, if !has_ended => { ended?; has_ended = true; }
            }
        }
    }
}

/// Whether an address is of this machine.
fn is_local(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A value as it may stand in an address.
pub(crate) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_to_this_machine_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123\n").unwrap();
        let proof = Proof { state_dir: None, admin_token_file: Some(file) };
        for (address, is_shown) in [
            ("http://127.0.0.1:15014", true),
            ("http://127.3.2.1:15014", true),
            ("http://[::1]:15014", true),
            ("http://localhost:15014", true),
            ("http://control-plane:15014", false),
            ("http://10.0.0.1:15014", false),
        ] {
            let from = From { control_plane_admin: address.parse().unwrap() };
            match from.shown(&proof) {
                Ok(shown) => assert_eq!((shown.unwrap(), is_shown), ("Bearer 0123".parse().unwrap(), true)),
                Err(error) => assert!(!is_shown && !error.to_string().contains("0123"), "{address}: {error}"),
            }
            assert_eq!(from.shown(&Proof { state_dir: None, admin_token_file: None }).unwrap(), None);
        }
    }

    #[test]
    fn what_stands_in_an_address_is_escaped() {
        assert_eq!(encoded("a/b?c d&e"), "a%2Fb%3Fc%20d%26e");
    }
}
