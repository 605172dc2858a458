//! How connections to an endpoint are secured: decided when endpoints or policy change, only read by requests.
//!
//! What cannot be had is never made up for by plain text: a connection that must be secured and cannot be is none.

use std::sync::Arc;

use pillion_policy::{
    cluster::{ClusterTls, Origination},
    endpoint::Endpoint,
    identity::Identity,
};

use crate::tls::credentials::Wallet;

/// What connections to an endpoint are secured by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Transport {
    /// Nothing.
    #[default]
    Plain,
    /// Mutual TLS with a sidecar of this mesh, which takes all HTTP as HTTP/2.
    Sidecar {
        /// Whom it must prove to be; nobody named is anybody of the trust domain.
        expected: Arc<[Identity]>,
        /// Whether policy wants this of a proxy without an identity, too, which then cannot connect.
        always: bool,
    },
    /// Mutual TLS with the mesh's identities, with somebody who speaks HTTP as it was sent.
    Mutual {
        /// Whom it must prove to be.
        expected: Arc<[Identity]>,
    },
    /// TLS as any other client speaks it.
    Originate(Arc<Origination>),
}

impl Transport {
    /// What policy asks for of an endpoint.
    pub fn of(tls: &ClusterTls, endpoint: &Endpoint) -> Self {
        let own = || endpoint.identity.iter().cloned().collect::<Arc<[_]>>();
        match tls {
            ClusterTls::Auto if endpoint.sidecar && endpoint.identity.is_some() => {
                Self::Sidecar { expected: own(), always: false }
            }
            ClusterTls::Auto | ClusterTls::Disable => Self::Plain,
            ClusterTls::Mutual(named) => {
                let expected = if named.is_empty() { own() } else { named.iter().cloned().collect() };
                if endpoint.sidecar {
                    Self::Sidecar { expected, always: true }
                } else {
                    Self::Mutual { expected }
                }
            }
            ClusterTls::Originate(policy) => Self::Originate(Arc::new((**policy).clone())),
        }
    }

    /// Whether it is mutual TLS with a sidecar.
    pub fn is_sidecar(&self, wallet: &Wallet) -> bool {
        matches!(self, Self::Sidecar { always, .. } if *always || wallet.is_configured())
    }

    /// Whether the endpoint proves an identity of the mesh.
    pub fn is_mutual(&self, wallet: &Wallet) -> bool {
        self.is_sidecar(wallet) || matches!(self, Self::Mutual { .. })
    }

    /// Whom the endpoint must prove to be, where that is one.
    pub fn expected(&self) -> Option<&Identity> {
        match self {
            Self::Sidecar { expected, .. } | Self::Mutual { expected } => match &**expected {
                [one] => Some(one),
                _ => None,
            },
            Self::Plain | Self::Originate(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(account: &str) -> Identity {
        format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
    }

    #[test]
    fn plain_text_only_where_it_is_wanted() {
        let plain = Endpoint::at("10.0.0.1:80".parse().unwrap());
        let known = Endpoint { identity: Some(identity("cart")), ..plain.clone() };
        let sidecar = Endpoint { sidecar: true, ..known.clone() };
        let nameless = Endpoint { sidecar: true, ..plain.clone() };
        let expected = |account| Arc::from([identity(account)]);
        let auto = ClusterTls::Auto;
        assert_eq!(Transport::of(&auto, &plain), Transport::Plain);
        assert_eq!(Transport::of(&auto, &known), Transport::Plain);
        assert_eq!(Transport::of(&auto, &nameless), Transport::Plain);
        let automatic = Transport::of(&auto, &sidecar);
        assert_eq!(automatic, Transport::Sidecar { expected: expected("cart"), always: false });
        assert!(automatic.is_sidecar(&Wallet::awaiting()) && !automatic.is_sidecar(&Wallet::none()));
        assert_eq!(Transport::of(&ClusterTls::Disable, &sidecar), Transport::Plain);

        let mutual = ClusterTls::Mutual(vec![]);
        let forced = Transport::of(&mutual, &sidecar);
        assert_eq!(forced, Transport::Sidecar { expected: expected("cart"), always: true });
        assert!(forced.is_sidecar(&Wallet::none()));
        assert_eq!(Transport::of(&mutual, &known), Transport::Mutual { expected: expected("cart") });
        let named = ClusterTls::Mutual(vec![identity("other")]);
        assert_eq!(Transport::of(&named, &known), Transport::Mutual { expected: expected("other") });
        assert_eq!(Transport::of(&named, &known).expected(), Some(&identity("other")));
        let originate = ClusterTls::Originate(Box::default());
        assert!(matches!(Transport::of(&originate, &sidecar), Transport::Originate(_)));
    }
}
