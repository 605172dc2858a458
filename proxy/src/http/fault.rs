//! Failures made on purpose: whether a request is delayed, and whether it is answered in place of the destination.
//!
//! The two dice are independent, the delay's is thrown first, and one that the policy does not ask for is not thrown
//! at all (VirtualService `fault`). A request may get both: it waits, and then is aborted.

use std::time::Duration;

use pillion_policy::{
    ratio::Fraction,
    resilience::{AbortStatus, Fault},
};

/// What one request has to suffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    /// The wait before it goes on.
    pub delay: Option<Duration>,
    /// What is answered after the wait.
    pub abort: Option<AbortStatus>,
}

/// Throws the dice for one request.
pub fn decide(fault: &Fault, rng: &mut fastrand::Rng) -> Injected {
    let mut hits = |fraction: Fraction| fraction.admits(rng.u32(..Fraction::ALL.parts_per_million()));
    Injected {
        delay: fault.delay.filter(|delay| hits(delay.fraction)).map(|delay| delay.duration),
        abort: fault.abort.filter(|abort| hits(abort.fraction)).map(|abort| abort.status),
    }
}

#[cfg(test)]
mod tests {
    use pillion_policy::resilience::{Abort, Delay};
    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_secs(7);

    fn fault(delay: Option<f64>, abort: Option<f64>) -> Fault {
        let share = |percent| Fraction::from_percent(percent).unwrap();
        Fault {
            delay: delay.map(|percent| Delay { fraction: share(percent), duration: WAIT }),
            abort: abort.map(|percent| Abort { fraction: share(percent), status: AbortStatus::Grpc(14) }),
        }
    }

    /// How many of `n` are delayed, aborted, and both.
    fn counts(fault: &Fault, n: u32, seed: u64) -> [u32; 3] {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..n).map(|_| decide(fault, &mut rng)).fold([0; 3], |[delayed, aborted, both], injected| {
            let (delay, abort) = (injected.delay.is_some(), injected.abort.is_some());
            [delayed + u32::from(delay), aborted + u32::from(abort), both + u32::from(delay && abort)]
        })
    }

    #[test]
    fn the_ends_are_certain() {
        for (delay, abort, expected) in [
            (None, None, [0, 0, 0]),
            (Some(0.0), Some(0.0), [0, 0, 0]),
            (Some(100.0), None, [1000, 0, 0]),
            (None, Some(100.0), [0, 1000, 0]),
            (Some(100.0), Some(100.0), [1000, 1000, 1000]),
        ] {
            assert_eq!(counts(&fault(delay, abort), 1000, 1), expected, "{delay:?} {abort:?}");
        }
        let injected = decide(&fault(Some(100.0), Some(100.0)), &mut fastrand::Rng::with_seed(1));
        assert_eq!(injected, Injected { delay: Some(WAIT), abort: Some(AbortStatus::Grpc(14)) });
    }

    #[test]
    fn what_is_not_asked_for_throws_no_dice() {
        let (mut rng, mut untouched) = (fastrand::Rng::with_seed(1), fastrand::Rng::with_seed(1));
        decide(&Fault::default(), &mut rng);
        assert_eq!(rng.u64(..), untouched.u64(..));
    }

    proptest! {
        /// The bound is six standard deviations, which fair dice pass twice in a billion times.
        #[test]
        fn shares_are_kept_and_independent(delay in 0.0..=100.0, abort in 0.0..=100.0, seed: u64) {
            const N: u32 = 5_000;
            let shares = [delay / 100.0, abort / 100.0, delay * abort / 10_000.0];
            for (count, share) in counts(&fault(Some(delay), Some(abort)), N, seed).into_iter().zip(shares) {
                let mean = f64::from(N) * share;
                let bound = 6.0 * (mean * (1.0 - share)).sqrt() + 1.0;
                prop_assert!((f64::from(count) - mean).abs() <= bound, "{} instead of {}", count, mean);
            }
        }
    }
}
