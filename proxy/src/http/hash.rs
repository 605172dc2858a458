//! What makes requests stick to an endpoint: the key of consistent hashing.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderValue, Request, header::COOKIE};
use pillion_policy::{
    cluster::{HashKey, LoadBalancer},
    matching,
};

use crate::{rt::rng, upstream::lb};

/// The hash of a request, and the cookie that makes the next ones follow.
#[derive(Debug, Default)]
pub struct Affinity {
    /// The hash; absent where the request has no key, or balancing needs none.
    pub hash: Option<u64>,
    /// `Set-Cookie` for the response.
    pub cookie: Option<HeaderValue>,
}

/// Reads the key a balancer asks for.
pub fn affinity<B>(
    balancer: &LoadBalancer,
    request: &Request<B>,
    peer: IpAddr,
    rng: &mut fastrand::Rng,
) -> Affinity {
    let LoadBalancer::RingHash { key, .. } = balancer else { return Affinity::default() };
    let hashed = |bytes: &[u8]| Affinity { hash: Some(lb::hash(bytes)), cookie: None };
    match key {
        HashKey::Header(name) => matching::joined(request.headers(), name)
            .map(|value| hashed(value.as_bytes()))
            .unwrap_or_default(),
        HashKey::Query(name) => matching::query_value(request.uri().query().unwrap_or_default(), name)
            .map(|value| hashed(value.as_bytes()))
            .unwrap_or_default(),
        HashKey::SourceIp => match peer.to_canonical() {
            IpAddr::V4(address) => hashed(&address.octets()),
            IpAddr::V6(address) => hashed(&address.octets()),
        },
        HashKey::Cookie { name, path, ttl } => match (cookie(request.headers(), name), ttl) {
            (Some(value), _) => hashed(value.as_bytes()),
            (None, None) => Affinity::default(),
            (None, Some(ttl)) => {
                let id = rng::uuid_v4(rng);
                let id = String::from_utf8_lossy(&id);
                let path = path.as_ref().map(|path| format!("; Path={path}")).unwrap_or_default();
                let age = match ttl.as_secs() {
                    0 => String::new(),
                    seconds => format!("; Max-Age={seconds}"),
                };
                let cookie = HeaderValue::from_str(&format!("{name}=\"{id}\"{age}{path}; HttpOnly")).ok();
                Affinity { cookie, ..hashed(id.as_bytes()) }
            }
        },
    }
}

/// The value of a cookie, without the quotes around it (RFC 6265 §5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    headers.get_all(COOKIE).iter().find_map(|line| {
        line.to_str().ok()?.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then(|| Cow::Borrowed(value.trim().trim_matches('"')))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ring(key: HashKey) -> LoadBalancer {
        LoadBalancer::RingHash { key, minimum_size: 1024 }
    }

    fn of(key: HashKey, request: &Request<()>) -> Affinity {
        affinity(&ring(key), request, "10.0.0.1".parse().unwrap(), &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn a_cookie_that_is_set_leads_to_the_same_hash() {
        let key = HashKey::Cookie {
            name: "stick".into(),
            path: Some("/".into()),
            ttl: Some(Duration::from_secs(5)),
        };
        let first = of(key.clone(), &Request::new(()));
        let set = first.cookie.unwrap();
        let set = set.to_str().unwrap();
        assert!(set.contains("Max-Age=5") && set.contains("Path=/"), "{set}");
        let back = Request::builder().header(COOKIE, set.split(';').next().unwrap()).body(()).unwrap();
        let second = of(key, &back);
        assert_eq!(first.hash, second.hash);
        assert!(second.cookie.is_none());
    }

    #[test]
    fn a_request_without_the_key_has_no_hash() {
        let request = Request::builder().uri("/?user=7").body(()).unwrap();
        assert!(of(HashKey::Header("x-user".parse().unwrap()), &request).hash.is_none());
        assert!(of(HashKey::Query("user".into()), &request).hash.is_some());
        assert!(of(HashKey::SourceIp, &request).hash.is_some());
    }
}
