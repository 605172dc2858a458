//! The short words for how requests end.
//!
//! Each has a number, by which counters are kept, so that the set is closed and a new flag is added at the end.

/// What stands in logs, metrics and `x-pillion-error`: Envoy's response flags.
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
    /// Upstream overflow: a limit of ours.
    Uo,
    /// Upstream request timeout.
    Ut,
    /// Upstream protocol error.
    Upe,
    /// Downstream connection termination.
    Dc,
    /// Downstream protocol error.
    Dpe,
    /// Discovery: the destination could not be looked up.
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
}

impl Flag {
    /// Every flag; the index of each is its number.
    pub const ALL: [Self; 23] = [
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
    ];

    /// The flag as it is printed; `-` for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Nr => "NR",
            Self::Nc => "NC",
            Self::Uh => "UH",
            Self::Uf => "UF",
            Self::Uc => "UC",
            Self::Ur => "UR",
            Self::Uo => "UO",
            Self::Ut => "UT",
            Self::Upe => "UPE",
            Self::Dc => "DC",
            Self::Dpe => "DPE",
            Self::Dsc => "DSC",
            Self::Drn => "DRN",
            Self::Urx => "URX",
            Self::Bud => "BUD",
            Self::Brk => "BRK",
            Self::Rl => "RL",
            Self::Di => "DI",
            Self::Fi => "FI",
            Self::Tls => "TLS",
            Self::Authz => "AUTHZ",
            Self::Jwt => "JWT",
        }
    }

    /// The flag of that number, `None` for a number that is none.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_numbered_in_order() {
        for (number, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, number);
            assert_eq!(Flag::from_number(u8::try_from(number).unwrap()), flag);
        }
    }
}
