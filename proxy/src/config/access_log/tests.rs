use super::*;

fn pieces(text: &str) -> Vec<Piece> {
    text.parse::<Template>().unwrap().pieces
}

fn refused(text: &str) -> String {
    text.parse::<AccessLogFormat>().unwrap_err()
}

#[test]
fn templates_are_read() {
    let literal = |text: &str| Piece::Literal(text.into());
    let field = |field| Piece::Value(Operator::Field(field), None);
    assert_eq!(
        pieces("[%START_TIME%] 100%% %REQ(X-A?:PATH):8% %RESP(Server)%\n"),
        [
            literal("["),
            field(Field::StartTime),
            literal("] 100% "),
            Piece::Value(
                Operator::Request(vec![Part::Header(HeaderName::from_static("x-a")), Part::Path]),
                Some(8)
            ),
            literal(" "),
            Piece::Value(Operator::Response(vec![header::SERVER]), None),
        ]
    );
    for (name, known) in Field::ALL {
        assert_eq!(pieces(&format!("%{name}%")), [field(*known)]);
    }
}

#[test]
fn the_default_format_of_envoy_is_read() {
    let envoy = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                 %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
                 \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
                 \"%UPSTREAM_HOST%\"\n";
    let template: Template = envoy.parse().unwrap();
    let names: Vec<&str> = template.request_headers().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-envoy-original-path", "x-forwarded-for", "user-agent"]);
    let names: Vec<&str> = template.response_headers().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-envoy-upstream-service-time"]);
}

#[test]
fn what_cannot_be_told_is_refused_by_name() {
    for (text, told) in [
        ("%UPSTREAM_WIRE_BYTES%", "%UPSTREAM_WIRE_BYTES% is not known here"),
        ("%STREAM_ID(3)%", "%STREAM_ID% is not known here"),
        ("%PROTOCOL(3)%", "PROTOCOL takes nothing in brackets"),
        ("a % b", "has no % at its end"),
        ("%REQ%", "names no header field"),
        ("%REQ(X%", "lacks a )"),
        ("%REQ(a b)%", "\"a b\" is no header field"),
        ("%REQ(X):many%", "\":many\" is no length"),
        ("%REQ(Authorization)%", "authorization holds secrets"),
        ("%RESP(X?set-cookie)%", "set-cookie holds secrets"),
        ("xml", "write text, json, or a template"),
    ] {
        let reason = refused(text);
        assert!(reason.contains(told), "{text}: {reason}");
    }
    let long = format!("%PROTOCOL%{}", "x".repeat(MAX_TEMPLATE));
    assert!(refused(&long).contains("at most"));
}

#[test]
fn conditions_are_read() {
    let slow = LogFilter::DurationMillis(Comparison::AtLeast, 500);
    assert_eq!(filter("slower-than=500ms"), Ok(slow.clone()));
    let sampled = LogFilter::Sampled(Fraction::ONE_PERCENT);
    assert_eq!(filter("slower-than=500ms,sample=1%"), Ok(LogFilter::Any(vec![slow, sampled])));
    assert!(matches!(filter("errors"), Ok(LogFilter::Any(any)) if any.contains(&LogFilter::Flagged)));
    for wrong in ["", "error", "errors,", "slower-than=fast", "sample=1", "sample=101%", "sample=x%"] {
        assert!(filter(wrong).is_err(), "{wrong}");
    }
}
