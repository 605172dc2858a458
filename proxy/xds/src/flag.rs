//! The short words for how requests end, and what there is to say about each.
//!
//! A flag stands in `x-pillion-error`, logs, metrics and spans. Where Envoy has one for exactly the same cause, it is
//! Envoy's; where Envoy lumps causes together, the plainest of them keeps its flag and the others have one of their own,
//! which says what Envoy would call it. Each has a number, by which counters are kept: the set is closed, and a new flag
//! is added at the end. The texts are here, below proxy and command line, so that both say the same; `proxy/FLAGS.md` is
//! made of them.

mod texts;

use self::texts::TEXTS;

/// How a request ended, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Flag {
    /// Nothing to remark.
    #[default]
    None,
    /// No route.
    Nr,
    /// No cluster.
    Nc,
    /// No healthy upstream.
    Uh,
    /// Upstream connection failure.
    Uf,
    /// Upstream connection termination.
    Uc,
    /// Upstream remote reset.
    Ur,
    /// Upstream overflow: as many requests are under way as may be.
    Uo,
    /// Upstream request timeout.
    Ut,
    /// Upstream protocol error.
    Upe,
    /// Downstream connection termination.
    Dc,
    /// Downstream protocol error.
    Dpe,
    /// Discovery: the destination could not be looked up in time.
    Dsc,
    /// Draining.
    Drn,
    /// Upstream retry limit exceeded: every repetition the rule allows has failed.
    Urx,
    /// The retry budget allows no repetition.
    Bud,
    /// A circuit breaker is open.
    Brk,
    /// Rate limited.
    Rl,
    /// Delay injected.
    Di,
    /// Fault injected.
    Fi,
    /// TLS: the connection could not be secured.
    Tls,
    /// Denied by authorization policy.
    Authz,
    /// A token was not accepted.
    Jwt,
    /// No such host: nothing describes it.
    Nh,
    /// Upstream connect timeout.
    Uct,
    /// Upstream broke off: its response ended before it was complete.
    Ubo,
    /// Upstream per-try timeout.
    Upt,
    /// Upstream head too large.
    Uhl,
    /// Upstream overflow, pending: as many requests wait for a connection as may.
    Uop,
    /// Upstream overflow, connections: as many are open as may be.
    Uoc,
    /// Bulkhead full.
    Bhf,
    /// Bulkhead queue: waited in it for too long.
    Bhq,
    /// Discovery overflow: too many requests wait for hosts to be looked up.
    Dso,
    /// Downstream head too large.
    Dhl,
    /// Downstream body too large.
    Dbl,
    /// CONNECT, which is not routed.
    Conn,
    /// Stream idle timeout.
    Si,
    /// Detection timed out: the head of the first request did not come.
    Det,
    /// TLS identity: the peer is not who it must be.
    Tlsid,
    /// TLS, own: this proxy has nothing to secure a connection with.
    Tlsown,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client's.
    Client,
    /// The proxy's, or a limit it was told to keep.
    Local,
    /// The destination's.
    Upstream,
}

/// What the client sees of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A response of the proxy's own, with one of these statuses; a gRPC caller gets this code (`google.rpc.Code`).
    Own(&'static [u16], u8),
    /// A response of the proxy's own, as the policy words it.
    Worded,
    /// The response of the application.
    Passed,
    /// Nothing, or the rest of a response never comes.
    CutOff,
}

/// All there is to say about a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The flag.
    pub flag: Flag,
    /// As it is printed; `-` for none.
    pub code: &'static str,
    /// What Envoy's log would say; `None` where it would say nothing.
    pub envoy: Option<&'static str>,
    /// What the client sees.
    pub answer: Answer,
    /// Whose fault it is.
    pub fault: Fault,
    /// What has happened.
    pub meaning: &'static str,
    /// Why that happens most of the time.
    pub cause: &'static str,
    /// What is to be done.
    pub advice: &'static str,
}

impl Flag {
    /// Every flag; the index of each is its number.
    pub const ALL: [Self; 40] = [
        Self::None,
        Self::Nr,
        Self::Nc,
        Self::Uh,
        Self::Uf,
        Self::Uc,
        Self::Ur,
        Self::Uo,
        Self::Ut,
        Self::Upe,
        Self::Dc,
        Self::Dpe,
        Self::Dsc,
        Self::Drn,
        Self::Urx,
        Self::Bud,
        Self::Brk,
        Self::Rl,
        Self::Di,
        Self::Fi,
        Self::Tls,
        Self::Authz,
        Self::Jwt,
        Self::Nh,
        Self::Uct,
        Self::Ubo,
        Self::Upt,
        Self::Uhl,
        Self::Uop,
        Self::Uoc,
        Self::Bhf,
        Self::Bhq,
        Self::Dso,
        Self::Dhl,
        Self::Dbl,
        Self::Conn,
        Self::Si,
        Self::Det,
        Self::Tlsid,
        Self::Tlsown,
    ];

    /// All there is to say about it.
    pub fn explanation(self) -> &'static Explanation {
        let [none, ..] = &TEXTS;
        TEXTS.get(self as usize).unwrap_or(none)
    }

    /// The flag as it is printed; `-` for none.
    pub fn as_str(self) -> &'static str {
        self.explanation().code
    }

    /// What has happened.
    pub fn meaning(self) -> &'static str {
        self.explanation().meaning
    }

    /// What is to be done.
    pub fn advice(self) -> &'static str {
        self.explanation().advice
    }

    /// What Envoy's log would say; `None` where it would say nothing.
    pub fn envoy(self) -> Option<&'static str> {
        self.explanation().envoy
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        self.explanation().fault
    }

    /// The flag of that number, `None` for a number that is none.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The flag that is printed so; absent where there is none.
    pub fn from_code(code: &str) -> Option<Self> {
        TEXTS.iter().find(|text| text.code == code).map(|text| text.flag)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flags_are_numbered_in_order() {
        for (number, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, number);
            assert_eq!(flag.explanation().flag, flag);
            assert_eq!(Flag::from_number(u8::try_from(number).unwrap()), flag);
            assert_eq!(Flag::from_code(flag.as_str()), Some(flag));
        }
        assert_eq!(Flag::from_number(u8::MAX), Flag::None);
        assert_eq!(Flag::from_code("nonsense"), None);
    }

    #[test]
    fn codes_are_short_and_no_two_are_alike() {
        let codes: HashSet<_> = Flag::ALL.into_iter().map(Flag::as_str).collect();
        assert_eq!(codes.len(), Flag::ALL.len());
        for code in codes.into_iter().filter(|code| *code != "-") {
            assert!(code.len() <= 6 && code.bytes().all(|byte| byte.is_ascii_uppercase()), "{code}");
        }
    }

    #[test]
    fn every_flag_is_explained_in_sentences() {
        for Explanation { code, meaning, cause, advice, .. } in &TEXTS {
            for text in [meaning, cause, advice] {
                assert!(text.len() > 20 && text.ends_with('.'), "{code}: {text}");
                assert!(text.is_ascii() && !text.contains('|'), "{code}: {text}");
            }
        }
    }
}
