use std::collections::HashSet;

use pillion_xds::flag::Answer;

use super::*;

const AFTER: Duration = Duration::from_secs(1);

const HEAD: HeadLimits = HeadLimits { bytes: 1, fields: 1 };

/// One error of each cause.
fn errors() -> Vec<ProxyError> {
    let name = || Arc::from("app:80");
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 80));
    let overflow = |limit| ProxyError::Overflow { cluster: name(), limit };
    let handshake = |refusal| ProxyError::Handshake { endpoint, refusal };
    vec![
        ProxyError::BadRequest("bad"),
        ProxyError::ConnectNotAllowed,
        ProxyError::HeadersTooLarge(HEAD),
        ProxyError::BodyTooLarge(1),
        ProxyError::UnknownHost(name()),
        ProxyError::NoRoute(name()),
        ProxyError::Undiscovered { host: name(), waited: AFTER },
        ProxyError::DiscoveryOverflow,
        ProxyError::NoCluster(name()),
        ProxyError::NoHealthyEndpoint { cluster: name() },
        overflow(Limit::MaxConnections),
        overflow(Limit::MaxPendingRequests),
        overflow(Limit::MaxRequests),
        overflow(Limit::MaxPending),
        overflow(Limit::QueueTimeout),
        ProxyError::ConnectFailed { endpoint, reason: name() },
        ProxyError::ConnectTimeout { endpoint, after: AFTER },
        handshake(Refusal::UnknownCa),
        handshake(Refusal::WrongIdentity),
        handshake(Refusal::OwnExpired),
        ProxyError::UpstreamClosed { endpoint },
        ProxyError::UpstreamReset { endpoint, reason: name() },
        ProxyError::UpstreamProtocol { endpoint, reason: name() },
        ProxyError::ResponseTooLarge { endpoint, limits: HEAD },
        ProxyError::Timeout { after: AFTER },
        ProxyError::TryTimeout { endpoint, after: AFTER },
        ProxyError::Idle { after: AFTER, of_client: false },
        ProxyError::BreakerOpen { breaker: name(), retry_after: AFTER },
        ProxyError::RateLimited { limit: name(), requests: 1, per: AFTER, retry_after: AFTER, reset: AFTER },
        ProxyError::Denied { policy: None },
        ProxyError::BadToken(TokenFault::Expired),
        ProxyError::Injected(AbortStatus::Http(418)),
        ProxyError::Silent(AFTER),
        ProxyError::ClientClosed,
        ProxyError::Draining,
    ]
}

#[test]
fn every_cause_has_its_own_flag() {
    let flags: Vec<Flag> = errors().iter().map(ProxyError::flag).collect();
    let distinct: HashSet<Flag> = flags.iter().copied().collect();
    assert_eq!(distinct.len(), flags.len());
    assert!(!distinct.contains(&Flag::None));
    // What is remarked of responses that are the application's, or begun by it, is no error.
    let others = [Flag::None, Flag::Urx, Flag::Bud, Flag::Di, Flag::Ubo];
    for flag in Flag::ALL {
        assert!(distinct.contains(&flag) ^ others.contains(&flag), "{flag:?} is never said, or by two");
    }
}

#[test]
fn what_is_told_of_a_flag_is_what_happens() {
    let of_client = ProxyError::Idle { after: AFTER, of_client: true };
    for error in errors().into_iter().chain([of_client]) {
        let told = error.flag().explanation();
        match told.answer {
            Answer::Own(statuses, code) => {
                assert!(statuses.contains(&error.status().as_u16()), "{error:?}");
                assert_eq!(error.grpc_code(), code, "{error:?}");
            }
            Answer::Worded => assert!(matches!(error, ProxyError::Injected(_))),
            Answer::CutOff => assert!(matches!(error, ProxyError::ClientClosed | ProxyError::Draining)),
            Answer::Passed => panic!("{error:?} is no response of the application's"),
        }
    }
}
