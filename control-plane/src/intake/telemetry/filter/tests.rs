use proptest::prelude::*;

use super::*;

fn status(comparison: Comparison, code: u16) -> LogFilter {
    LogFilter::Status(comparison, code)
}

fn not(filter: LogFilter) -> LogFilter {
    LogFilter::Not(Box::new(filter))
}

#[test]
fn tests_are_read() {
    use Comparison::{AtLeast, AtMost, Equal, Greater, Less, NotEqual};
    for (text, expected) in [
        ("response.code >= 400", status(AtLeast, 400)),
        ("response.code==200", status(Equal, 200)),
        ("response.code<=  299", status(AtMost, 299)),
        ("has(response.code)", status(NotEqual, 0)),
        ("has ( response.code )", status(NotEqual, 0)),
        ("response.grpc_status != 0", LogFilter::GrpcStatus(NotEqual, 0)),
        ("response.duration > duration('500ms')", LogFilter::DurationMillis(Greater, 500)),
        ("request.duration > duration(\"1m1.5s\")", LogFilter::DurationMillis(Greater, 61_500)),
        ("request.duration < 250", LogFilter::DurationMillis(Less, 250)),
        ("response.flags != 0", LogFilter::Flagged),
        ("response.flags > 0", LogFilter::Flagged),
        ("response.flags == 0", not(LogFilter::Flagged)),
        ("connection.mtls", LogFilter::Secured),
        ("connection.mtls == true", LogFilter::Secured),
        ("connection.mtls != true", not(LogFilter::Secured)),
        ("request.method == 'GET'", LogFilter::Method("GET".into())),
        ("request.method != \"GET\"", not(LogFilter::Method("GET".into()))),
        ("request.host == 'order:80'", LogFilter::HostIs("order:80".into())),
        ("request.url_path == '/a b'", LogFilter::PathIs("/a b".into())),
        ("request.url_path.startsWith('/v1/')", LogFilter::PathStartsWith("/v1/".into())),
        ("request.url_path.contains(\"it's\")", LogFilter::PathContains("it's".into())),
        (r"request.url_path.contains('it\'s \\')", LogFilter::PathContains(r"it's \".into())),
    ] {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let (slow, flagged) = (LogFilter::DurationMillis(Comparison::Greater, 500), LogFilter::Flagged);
    let bad = || status(Comparison::AtLeast, 500);
    assert_eq!(
        parse("response.code >= 500 || response.flags != 0 && response.duration > 500"),
        Ok(LogFilter::Any(vec![bad(), LogFilter::All(vec![flagged.clone(), slow.clone()])]))
    );
    assert_eq!(
        parse("( response.code >= 500 || response.flags != 0 )\n && response.duration > 500"),
        Ok(LogFilter::All(vec![LogFilter::Any(vec![bad(), flagged.clone()]), slow]))
    );
    assert_eq!(
        parse("!connection.mtls && !(response.code >= 500)"),
        Ok(LogFilter::All(vec![not(LogFilter::Secured), not(bad())]))
    );
    assert_eq!(
        parse("connection.mtls || connection.mtls || response.flags != 0"),
        Ok(LogFilter::Any(vec![LogFilter::Secured, LogFilter::Secured, flagged]))
    );
}

#[test]
fn what_is_not_understood_is_told_with_its_place() {
    for (text, expected) in [
        ("", "character 1: expected one of response.code, "),
        ("response.code", "character 14: expected one of ==, !=, <, <=, > and >=, found the end"),
        ("response.code >= ", "character 18: expected a whole number in range, found the end"),
        ("response.code >= 400 and true", "character 22: expected &&, || or the end, found \"and true\""),
        ("response.code >= 4e2", "character 18: expected a whole number in range, found \"4e2\""),
        ("response.code >= 70000", "character 18: expected a whole number in range"),
        ("response.size > 1", "character 1: expected one of response.code, "),
        ("xds.cluster_name == 'a'", "character 1: expected one of "),
        ("response.codes == 1", "character 1: expected one of "),
        ("request.path == '/'", "character 1: expected one of "),
        (
            "request.method.startsWith('G')",
            "character 15: expected behind request.method one of == and !=, found",
        ),
        (
            "request.url_path > '/'",
            "behind request.url_path one of == and !=, .startsWith(..) and .contains(..)",
        ),
        ("request.method == GET", "character 19: expected a text in quotes, found \"GET\""),
        ("request.method == 'GET", "expected the other quote"),
        (r"request.method == '\n'", "character 20: expected behind a backslash only"),
        ("(connection.mtls", "character 17: expected ), found the end"),
        ("connection.mtls)", "character 16: expected &&, || or the end"),
        ("connection.mtls == 1", "character 20: expected == or != with true or false"),
        ("response.flags != 4", "expected 0: single flags cannot be asked for"),
        ("has(request.host)", "character 5: expected response.code, found \"request.host)\""),
        ("request.duration > duration('fast')", "expected a time (\"fast\" is not a duration"),
        ("request.duration > '1s'", "expected duration('500ms') or a number of milliseconds"),
        ("ü", "character 1: expected one of "),
        ("connection.mtls && ü", "character 20: expected one of "),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |depth: usize| format!("{}connection.mtls{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(parse(&nested(MAX_DEPTH - 1)), Ok(LogFilter::Secured));
    assert!(parse(&nested(MAX_DEPTH)).unwrap_err().to_string().contains("no more than 16 levels"));
    assert!(parse(&nested(1000)).is_err());
    assert!(parse(&"!".repeat(4000)).is_err());
    let long = format!("request.host == '{}'", "a".repeat(MAX_LENGTH));
    assert!(parse(&long).unwrap_err().to_string().contains("longer than 4096 bytes"));
    let flat = vec!["connection.mtls"; 200].join("||");
    assert!(matches!(parse(&flat), Ok(LogFilter::Any(parts)) if parts.len() == 200));
}

/// A filter as somebody would write it; nothing for what the language cannot say.
fn written(filter: &LogFilter) -> Option<String> {
    let sign = |comparison: &Comparison| match comparison {
        Comparison::Equal => "==",
        Comparison::NotEqual => "!=",
        Comparison::Less => "<",
        Comparison::AtMost => "<=",
        Comparison::Greater => ">",
        Comparison::AtLeast => ">=",
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let joined = |parts: &[LogFilter], sign: &str| {
        let parts = parts.iter().map(written).collect::<Option<Vec<_>>>()?;
        (parts.len() > 1).then(|| format!("({})", parts.join(sign)))
    };
    Some(match filter {
        LogFilter::All(parts) => joined(parts, " && ")?,
        LogFilter::Any(parts) => joined(parts, "||")?,
        LogFilter::Not(inner) => format!("!{}", written(inner)?),
        LogFilter::Status(comparison, code) => format!("response.code {} {code}", sign(comparison)),
        LogFilter::GrpcStatus(comparison, code) => format!("response.grpc_status{}{code}", sign(comparison)),
        LogFilter::DurationMillis(comparison, millis) => {
            format!("request.duration {} {millis}", sign(comparison))
        }
        LogFilter::Flagged => "response.flags != 0".to_owned(),
        LogFilter::Secured => "connection.mtls".to_owned(),
        LogFilter::Method(text) => format!("request.method == {}", quoted(text)),
        LogFilter::PathIs(text) => format!("request.url_path == {}", quoted(text)),
        LogFilter::PathStartsWith(text) => format!("request.url_path.startsWith({})", quoted(text)),
        LogFilter::PathContains(text) => format!("request.url_path.contains({})", quoted(text)),
        LogFilter::HostIs(text) => format!("request.host=={}", quoted(text)),
        LogFilter::Sampled(_) | LogFilter::Outbound | LogFilter::Inbound => return None,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(filter in pillion_policy::testing::telemetry::filter()) {
        if let Some(text) = written(&filter) {
            prop_assert_eq!(parse(&text), Ok(filter), "{}", text);
        }
    }

    #[test]
    fn nothing_written_does_harm(text in ".{0,60}", tail in "[a-z.()!&|'\"<>= 0-9]{0,60}") {
        let _any_answer = parse(&text);
        let _any_answer = parse(&format!("response.code >= 1 && {tail}"));
    }
}
