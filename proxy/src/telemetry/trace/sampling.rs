//! Which traces are recorded.
//!
//! By default a trace that came with a decision keeps it, and of those that begin here a share is recorded. The share is
//! told by the trace's id, so that all who sample the same share of the same traces choose the same ones, as
//! OpenTelemetry's `TraceIdRatioBased` sampler does.

use pillion_policy::ratio::Fraction;

/// How it is decided; small enough to be kept in one atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Of 2³² trace ids, how many are recorded.
    share: u64,
    /// Whether callers' decisions hold.
    by_parent: bool,
}

/// Everything.
const ALL: u64 = 1 << 32;

impl Sampling {
    /// What callers say, and a share of the rest.
    pub fn share(fraction: Fraction) -> Self {
        let share =
            u64::from(fraction.parts_per_million()) * ALL / u64::from(Fraction::ALL.parts_per_million());
        Self { share, by_parent: true }
    }

    /// By the names OpenTelemetry gives its samplers (`OTEL_TRACES_SAMPLER`), with the argument of those that take a
    /// ratio. `None` for a name or a ratio that is none.
    pub fn named(name: &str, argument: Option<&str>) -> Option<Self> {
        let ratio = || {
            let ratio = argument.map_or(Some(1.0), |text| text.trim().parse::<f64>().ok())?;
            (0.0..=1.0).contains(&ratio).then(|| of_all(ratio))
        };
        let (sampler, by_parent) = match name.strip_prefix("parentbased_") {
            Some(sampler) => (sampler, true),
            None => (name, false),
        };
        let share = match sampler {
            "always_on" => ALL,
            "always_off" => 0,
            "traceidratio" => ratio()?,
            _ => return None,
        };
        Some(Self { share, by_parent })
    }

    /// Whether a trace is recorded, of which `said` is what its caller has decided.
    pub fn decides(self, said: Option<bool>, trace_id: [u8; 16]) -> bool {
        match said {
            Some(sampled) if self.by_parent => sampled,
            _ => {
                let [.., a, b, c, d] = trace_id;
                u64::from(u32::from_be_bytes([a, b, c, d])) < self.share
            }
        }
    }

    /// The share in 2³², and whether callers' decisions hold.
    pub(super) fn parts(self) -> (u64, bool) {
        (self.share, self.by_parent)
    }

    /// The opposite of [`Sampling::parts`].
    pub(super) fn of_parts(share: u64, by_parent: bool) -> Self {
        Self { share: share.min(ALL), by_parent }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a ratio is between 0 and 1, and 2^32 is exact in a double"
)]
fn of_all(ratio: f64) -> u64 {
    (ratio * ALL as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samplers_of_opentelemetry_are_known_by_name() {
        let id = |last: u32| {
            let mut id = [0; 16];
            id[12..].copy_from_slice(&last.to_be_bytes());
            id
        };
        let (low, high) = (id(0), id(u32::MAX));
        for (name, argument, said, of_low, of_high) in [
            ("always_on", None, Some(false), true, true),
            ("always_off", None, Some(true), false, false),
            ("traceidratio", Some("0.5"), Some(false), true, false),
            ("traceidratio", None, None, true, true),
            ("parentbased_always_on", None, None, true, true),
            ("parentbased_always_on", None, Some(false), false, false),
            ("parentbased_always_off", None, Some(true), true, true),
            ("parentbased_always_off", None, None, false, false),
            ("parentbased_traceidratio", Some(" 0.25"), None, true, false),
            ("parentbased_traceidratio", Some("1"), None, true, true),
            ("parentbased_traceidratio", Some("0"), None, false, false),
        ] {
            let sampling = Sampling::named(name, argument).unwrap();
            assert_eq!(sampling.decides(said, low), of_low, "{name} {argument:?} {said:?}");
            assert_eq!(sampling.decides(said, high), of_high, "{name} {argument:?} {said:?}");
            let (share, by_parent) = sampling.parts();
            assert_eq!(Sampling::of_parts(share, by_parent), sampling);
        }
        for (name, argument) in [
            ("xray", None),
            ("", None),
            ("parentbased_", None),
            ("traceidratio", Some("1.1")),
            ("traceidratio", Some("-1")),
            ("traceidratio", Some("NaN")),
            ("traceidratio", Some("")),
        ] {
            assert_eq!(Sampling::named(name, argument), None, "{name} {argument:?}");
        }
    }

    #[test]
    fn a_share_of_new_traces_is_recorded() {
        let mut rng = fastrand::Rng::with_seed(3);
        let sampling = Sampling::share(Fraction::ONE_PERCENT);
        let mut count =
            |said| (0..100_000).filter(|_| sampling.decides(said, rng.u128(..).to_be_bytes())).count();
        let recorded = count(None);
        assert!((900..1100).contains(&recorded), "{recorded} of 100,000");
        assert_eq!((count(Some(true)), count(Some(false))), (100_000, 0));
    }
}
