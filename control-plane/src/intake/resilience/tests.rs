use std::path::PathBuf;

use crate::intake::tests::{assert_misspellings, assert_named, errors, remarks, rule, virtual_service};

fn policy(spec: &str) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let spec = indented.replace("TARGET", "targetRefs: [{kind: Service, name: a}]");
    format!(
        "apiVersion: policy.pillion.dev/v1alpha1\nkind: ResiliencePolicy\nmetadata: {{name: x}}\nspec:\n{spec}"
    )
}

fn every_field() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/every-field.yaml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_field_is_accepted_and_its_misspellings_are_not() {
    assert_eq!(remarks(&every_field()), Vec::<String>::new());
    assert!(assert_misspellings("every-field.yaml", &every_field()) > 300);
}

#[test]
fn the_examples_are_accepted() {
    let shop = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../k8s/examples/shop");
    let checked = crate::check_files(&[shop], &pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let errors = checked.problems.iter().filter(|problem| problem.severity != crate::Severity::Info);
    assert_eq!(errors.map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn mistakes_in_policies_are_named() {
    let cases: &[(&str, &str)] = &[
        ("timeout: 1s", "spec.targetRefs: at least one target is needed"),
        ("TARGET", "spec: it says nothing about its targets"),
        ("targetRefs: [{name: a}]\ntimeout: 1s", "targetRefs[0]: kind is missing"),
        (
            "targetRefs: [{kind: Deployment, name: a}]\ntimeout: 1s",
            "targetRefs[0].kind: \"Deployment\" is not a value of this field, choose one of Service, VirtualService",
        ),
        (
            "targetRefs: [{kind: Servcie, name: a}]\ntimeout: 1s",
            "targetRefs[0].kind: \"Servcie\" is not a value",
        ),
        ("targetRefs: [{kind: Servcie, name: a}]\ntimeout: 1s", "did you mean Service?"),
        (
            "targetRefs: [{kind: VirtualService, name: a}]\ntimeout: 1s",
            "targetRefs[0].group: the group of VirtualService is \"networking.istio.io\", not \"\"",
        ),
        (
            "targetRefs: [{group: apps, kind: Service, name: a}]\ntimeout: 1s",
            "targetRefs[0].group: the group of Service is \"\", not \"apps\"",
        ),
        ("targetRefs: [{kind: Service, name: 'a b'}]\ntimeout: 1s", "targetRefs[0].name: name \"a b\" holds"),
        ("targetRefs: [{kind: Service}]\ntimeout: 1s", "targetRefs[0].name: a name has 1 to 253 bytes"),
        (
            "targetRefs: [{kind: Service, name: a, sectionName: 80}]\ntimeout: 1s",
            "sectionName: 80 is a number in YAML, put it in quotes",
        ),
        (
            "targetRefs: [{kind: Service, name: a, namespace: b}]\ntimeout: 1s",
            "targetRefs[0].namespace: unknown field \"namespace\"",
        ),
        (
            "targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]\ntimeout: 1s",
            "targetRefs[1]: stands here twice",
        ),
        ("TARGET\ntimeout: 1us", "spec.timeout: the shortest timeout is 1ms"),
        ("TARGET\nconnectTimeout: 0s", "spec.connectTimeout: must be at least 1ms"),
        ("TARGET\nretry: {}", "spec.retry: it has no field"),
        ("TARGET\nretry: {attempts: 0, retryOn: [5xx]}", "retry.attempts: 0 switches retries off"),
        ("TARGET\nretry: {attempts: -1}", "retry.attempts: -1 is not between 0"),
        ("TARGET\ntimeout: 1s\nretry: {perTryTimeout: 2s}", "retry.perTryTimeout: longer than the timeout"),
        ("TARGET\nretry: {retryOn: [5xxx]}", "retryOn[0]: unknown condition \"5xxx\", did you mean \"5xx\"?"),
        ("TARGET\nretry: {retryOn: ['700']}", "retryOn[0]: 700 is not a status between 100 and 599"),
        ("TARGET\nretry: {statusCodes: [503, 99]}", "retry.statusCodes[1]: 99 is not a status"),
        ("TARGET\nretry: {headers: ['a b']}", "retry.headers[0]: \"a b\" is not a header name"),
        ("TARGET\nretry: {backoff: {base: 0s}}", "retry.backoff.base: must be at least 1ms"),
        ("TARGET\nretry: {backoff: {base: 2s, max: 1s}}", "retry.backoff.max: shorter than the base"),
        (
            "TARGET\nretry: {backoff: {multiplier: 0.5}}",
            "retry.backoff.multiplier: must be between 1 and 1000",
        ),
        ("TARGET\nretry: {budget: {percent: 101}}", "retry.budget.percent: 101 is not a percentage"),
        ("TARGET\nretry: {budget: {interval: 1ms}}", "retry.budget.interval: must be at least 1s"),
        ("TARGET\nretry: {budget: {minRetryConcurrency: 3}}", "budget.minRetryConcurrency: unknown field"),
    ];
    for (spec, expected) in cases {
        let found = errors(&policy(spec));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
}

#[test]
fn mistakes_in_breakers_and_limits_are_named() {
    let cases: &[(&str, &str)] = &[
        (
            "circuitBreaker: {consecutiveFailures: 0}",
            "circuitBreaker.consecutiveFailures: must be at least 1",
        ),
        ("circuitBreaker: {successThreshold: 0}", "circuitBreaker.successThreshold: must be at least 1"),
        ("circuitBreaker: {openDuration: 0s}", "circuitBreaker.openDuration: must be longer than 0"),
        (
            "circuitBreaker: {errorRate: {window: 0s}}",
            "circuitBreaker.errorRate.window: must be longer than 0",
        ),
        (
            "circuitBreaker: {errorRate: {buckets: 101}}",
            "circuitBreaker.errorRate.window: must be longer than 0",
        ),
        (
            "circuitBreaker: {errorRate: {thresholdPercent: 101}}",
            "circuitBreaker.errorRate.thresholdPercent: 101 is not a percentage",
        ),
        ("circuitBreaker: {fallback: {}}", "circuitBreaker.fallback: 0 is not a status between 200 and 599"),
        (
            "circuitBreaker: {fallback: {status: 200, headers: {Content-Length: '1'}}}",
            "fallback.headers.Content-Length: Content-Length belongs to the connection",
        ),
        ("bulkhead: {maxPending: 3}", "bulkhead.maxConcurrent: must be at least 1"),
        (
            "bulkhead: {maxConcurrent: 3, maxPending: 1, queueTimeout: 0s}",
            "queueTimeout: must be at least 1ms",
        ),
        ("rateLimit: {per: 1s}", "rateLimit.requests: must be at least 1"),
        ("rateLimit: {requests: 1}", "rateLimit.per: must be longer than 0"),
        ("rateLimit: {requests: 1, per: 15}", "rateLimit.per: 15 has no unit"),
        ("rateLimit: {requests: 1, per: 1s, key: {}}", "rateLimit.key: exactly one of header, peer and"),
        (
            "rateLimit: {requests: 1, per: 1s, key: {header: x, peer: {}}}",
            "rateLimit.key: exactly one of header, peer and clientAddress",
        ),
        (
            "rateLimit: {requests: 1, per: 1s, key: {header: 'a b'}}",
            "key.header: \"a b\" is not a header name",
        ),
        ("rateLimit: {requests: 1, per: 1s, key: peer}", "rateLimit.key: expected a mapping, found \"peer\""),
        ("loadBalancer: {simple: PEAK_EMWA}", "loadBalancer.simple: \"PEAK_EMWA\" is not a value"),
        (
            "outlierDetection: {failurePercentageThreshold: 101}",
            "failurePercentageThreshold: 101 is not a per",
        ),
        ("outlierDetection: {interval: 0s}", "outlierDetection.interval: must be at least 1ms"),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", "connectionPool.tcp.connectTimeout: must be longer"),
        ("fault: {}", "spec.fault: it has no field"),
        ("circutBreaker: {}", "unknown field \"circutBreaker\", did you mean \"circuitBreaker\"?"),
    ];
    for (spec, expected) in cases {
        let found = errors(&policy(&format!("TARGET\n{spec}")));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
    let body = format!("TARGET\ncircuitBreaker: {{fallback: {{status: 200, body: {}}}}}", "x".repeat(65_537));
    assert!(errors(&policy(&body))[0].contains("fallback: the body has 65537 bytes"));
}

#[test]
fn what_a_policy_says_in_vain_is_named() {
    let rule = "targetRefs: [{group: networking.istio.io, kind: VirtualService, name: a}]";
    let spec = format!(
        "{rule}\nconnectTimeout: 1s\nretry: {{attempts: 1, budget: {{}}}}\nbulkhead: {{maxConcurrent: 1}}\ncircuitBreaker: {{}}"
    );
    let vain = "has no effect on a VirtualService: target the Service";
    let fields = ["connectTimeout", "retry.budget", "bulkhead"];
    assert_eq!(remarks(&policy(&spec)), fields.map(|field| format!("warning spec.{field}: {vain}")));
    for (key, reason) in [
        ("peer", "counts each calling pod as a whole for a VirtualService: target the Service"),
        (
            "clientAddress",
            "counts each calling pod as a whole for a VirtualService, unless the application sends X-Forwarded-For: \
             target the Service",
        ),
    ] {
        let limit = format!("rateLimit: {{requests: 1, per: 1s, key: {{{key}: {{}}}}}}");
        let said = remarks(&policy(&format!("{rule}\n{limit}")));
        assert_eq!(said, [format!("warning spec.rateLimit.key: {reason}")]);
        assert_eq!(remarks(&policy(&format!("TARGET\n{limit}"))), Vec::<String>::new());
    }
    assert_eq!(
        remarks(&policy("TARGET\nbulkhead: {maxConcurrent: 1, queueTimeout: 1s}")),
        ["warning spec.bulkhead.queueTimeout: has no effect: without maxPending nobody waits"]
    );
    assert_eq!(
        remarks(&policy("TARGET\nretry: {retryOn: [retriable-headers, http3-post-connect-failure]}")),
        [
            "info spec.retry.retryOn[1]: http3-post-connect-failure never happens: there is no HTTP/3",
            "info spec.retry.retryOn: retriable-headers repeats nothing: no header is listed",
        ]
    );
}

#[test]
fn mistakes_in_retries_and_faults_are_named() {
    assert_named(&[
        ("- ROUTE\n  retries: {attempts: -1}", "retries.attempts: cannot be negative"),
        ("- ROUTE\n  retries: {attempts: 0, retryOn: 5xx}", "retries.attempts: 0 switches retries off"),
        ("- ROUTE\n  retries: {perTryTimeout: 0s}", "retries.perTryTimeout: must be at least 1ms"),
        ("- ROUTE\n  retries: {backoff: 1us}", "retries.backoff: must be at least 1ms"),
        (
            "- ROUTE\n  retries: {retryOn: 'reset,gatewayerror'}",
            "retries.retryOn: unknown condition \"gatewayerror\", did you mean \"gateway-error\"?",
        ),
        ("- ROUTE\n  retries: {retryOn: '5xx 503'}", "retries.retryOn: unknown condition \"5xx 503\""),
        ("- ROUTE\n  retries: {retryOn: '600'}", "retries.retryOn: 600 is not a status between 100 and 599"),
        ("- ROUTE\n  fault: {}", "fault: it has no field"),
        ("- ROUTE\n  fault: {delay: {percentage: {value: 1}}}", "fault.delay: fixedDelay is needed"),
        ("- ROUTE\n  fault: {delay: {fixedDelay: 0s}}", "fault.delay.fixedDelay: must be at least 1ms"),
        ("- ROUTE\n  fault: {delay: {exponentialDelay: 1s}}", "fault.delay.exponentialDelay: not supported"),
        (
            "- ROUTE\n  fault: {delay: {fixedDelay: 1s, percent: 1, percentage: {value: 1}}}",
            "fault.delay.percent: only one of percent and percentage",
        ),
        (
            "- ROUTE\n  fault: {delay: {fixedDelay: 1s, percent: 101}}",
            "fault.delay.percent: 101 is not a perc",
        ),
        ("- ROUTE\n  fault: {abort: {httpStatus: 199}}", "fault.abort.httpStatus: not a status between"),
        ("- ROUTE\n  fault: {abort: {}}", "fault.abort: exactly one of httpStatus and grpcStatus"),
        (
            "- ROUTE\n  fault: {abort: {httpStatus: 500, grpcStatus: OK}}",
            "fault.abort: exactly one of httpStatus and grpcStatus",
        ),
        (
            "- ROUTE\n  fault: {abort: {grpcStatus: unavailable}}",
            "fault.abort.grpcStatus: unknown gRPC status \"unavailable\", did you mean \"UNAVAILABLE\"?",
        ),
        ("- ROUTE\n  fault: {abort: {http2Error: x}}", "fault.abort.http2Error: not supported"),
        (
            "- redirect: {uri: /x}\n  fault: {abort: {httpStatus: 500}}",
            "fault: not possible together with redirect",
        ),
        (
            "- route: [{destination: {host: a}, headers: {request: {add: {Host: b}}}}]",
            "route[0].headers.request.add: a request has one host: use set",
        ),
        (
            "- route: [{destination: {host: a}, headers: {request: {set: {':authority': 'b c'}}}}]",
            "headers.request.set.:authority: \"b c\" is not an authority",
        ),
        (
            "- route: [{destination: {host: a}, headers: {request: {remove: [Host]}}}]",
            "route[0].headers.request.remove[0]: Host cannot be removed",
        ),
    ]);
}

#[test]
fn repeating_what_is_not_idempotent_is_warned_of() {
    let said =
        |http: &str| remarks(&virtual_service(&format!("- route: [{{destination: {{host: a}}}}]\n  {http}")));
    let warned = |http: &str| said(http).iter().any(|remark| remark.contains("not idempotent"));
    assert!(warned("retries: {retryOn: 5xx}"));
    assert!(warned("retries: {retryOn: '503'}\n  match: [{method: {regex: 'PUT|POST'}}]"));
    assert!(!warned("retries: {retryOn: 5xx}\n  match: [{method: {exact: GET}}]"));
    assert!(!warned("retries: {retryOn: 'connect-failure,refused-stream,reset-before-request'}"));
    assert!(!warned("retries: {attempts: 5}"));
}

#[test]
fn mistakes_in_ejection_and_budgets_of_rules_are_named() {
    for (policy, expected) in [
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 1}",
            "consecutiveLocalOriginFailures: needs splitExternalLocalOriginErrors: true",
        ),
        ("outlierDetection: {consecutiveErrors: -1}", "consecutiveErrors: -1 is not between 0"),
        ("outlierDetection: {minHealthPercent: -1}", "minHealthPercent: -1 is not a percentage"),
        ("outlierDetection: {baseEjectionTime: 0s}", "baseEjectionTime: must be at least 1ms"),
        (
            "outlierDetection: {failurePercentageThreshold: 50}",
            "failurePercentageThreshold: not a field of Istio's: only a ResiliencePolicy has it",
        ),
        ("loadBalancer: {simple: PEAK_EWMA}", "simple: PEAK_EWMA is not Istio's"),
        ("retryBudget: {percent: 101}", "retryBudget.percent: 101 is not a percentage"),
        ("connectionPool: {http: {maxRetries: -1}}", "http.maxRetries: cannot be negative"),
        (
            "portLevelSettings: [{port: {number: 1}, outlierDetection: {maxEjectionPercent: 101}}]",
            "portLevelSettings[0].outlierDetection.maxEjectionPercent: 101 is not a percentage",
        ),
    ] {
        let found = errors(&rule(&format!("trafficPolicy: {{{policy}}}")));
        assert!(found.iter().any(|error| error.contains(expected)), "{policy}: {found:?}");
    }
    assert_eq!(
        remarks(&rule("trafficPolicy: {outlierDetection: {maxEjectionPercent: 0}}")),
        ["info spec.trafficPolicy.outlierDetection.maxEjectionPercent: 0 is as good as unset: it is 10"]
    );
}
