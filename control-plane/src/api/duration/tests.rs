use super::*;

#[test]
fn go_durations_are_read() {
    for (text, millis) in [("10s", 10_000), ("1.5h", 5_400_000), ("1m30s", 90_000), ("250ms", 250), ("0s", 0)]
    {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn everything_else_is_refused() {
    for text in ["", "10", "s", "10 s", "-1s", "1d", "1s2", ".s", "1.2.3s", "1e3s", "99999999999h", "NaNs"] {
        assert!(parse(text).is_err(), "{text}");
    }
}
