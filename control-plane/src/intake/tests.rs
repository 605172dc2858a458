use std::path::PathBuf;

use pillion_policy::name::Hostname;
use proptest::prelude::*;

use super::*;
use crate::problem::Severity;

fn naming() -> Naming {
    Naming::new(&Hostname::new("cluster.local").unwrap())
}

fn seed(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/seed").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What is said about a text, as `severity path: reason`.
pub(super) fn remarks(text: &str) -> Vec<String> {
    let problems: Vec<Problem> = match read_file("x.yaml", text, &naming()) {
        Err(problem) => vec![*problem],
        Ok(documents) => documents
            .into_iter()
            .flat_map(|document| {
                let notes = document.object.map(|stored| stored.notes.clone());
                document.problems.into_iter().chain(notes.unwrap_or_default())
            })
            .collect(),
    };
    problems
        .iter()
        .map(|problem| format!("{} {}: {}", problem.severity, problem.path, problem.reason))
        .collect()
}

pub(super) fn errors(text: &str) -> Vec<String> {
    let all = remarks(text);
    all.iter().filter_map(|remark| remark.strip_prefix("error ")).map(str::to_owned).collect()
}

#[test]
fn the_seed_files_are_accepted_as_they_stand() {
    assert_eq!(
        remarks(&seed("istio-config.yaml")),
        [
            "info spec.trafficPolicy.outlierDetection.consecutiveErrors: deprecated, use consecutiveGatewayErrors \
             or consecutive5xxErrors; read as consecutiveGatewayErrors: 5",
        ]
    );
    assert_eq!(remarks(&seed("kubernetes-service.yaml")), ["info : ignored: not read by the mesh"]);
}

/// Ways to misspell a word.
fn misspellings(word: &str) -> Vec<String> {
    let mut spellings = vec![format!("{word}x"), format!("x{word}")];
    let chars: Vec<char> = word.chars().collect();
    let mut swapped = chars.clone();
    swapped.swap(chars.len() - 2, chars.len() - 1);
    spellings.push(swapped.iter().collect());
    spellings.push(chars[..chars.len() - 1].iter().collect());
    spellings.push(chars[1..].iter().collect());
    spellings.push(word[..1].to_uppercase() + &word[1..]);
    spellings.retain(|spelling| spelling != word);
    spellings
}

/// The lines of a seed file whose keys are fields, and not names that users choose.
fn fields(text: &str) -> Vec<(usize, String)> {
    let mut free: Option<usize> = None;
    let mut fields = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start_matches([' ', '-']).len();
        let Some((key, value)) = line.trim_start_matches([' ', '-']).split_once(':') else { continue };
        if line.starts_with('#') || line.starts_with("---") {
            continue;
        }
        if free.is_some_and(|free| indent > free) {
            continue;
        }
        free = None;
        fields.push((number, key.to_owned()));
        let selects =
            key == "selector" && !text.lines().nth(number + 1).unwrap_or_default().contains("matchLabels");
        if value.trim().is_empty() && (selects || matches!(key, "labels" | "matchLabels" | "headers")) {
            free = Some(indent);
        }
    }
    fields
}

/// Misspells every field of a file and counts how often that was noticed by name.
pub(super) fn assert_misspellings(name: &str, text: &str) -> usize {
    let mut tried = 0;
    for (number, key) in fields(text) {
        for wrong in misspellings(&key) {
            let lines = text.lines().enumerate();
            let changed: Vec<String> = lines
                .map(|(at, line)| match at == number {
                    true => line.replacen(&format!("{key}:"), &format!("{wrong}:"), 1),
                    false => line.to_owned(),
                })
                .collect();
            let found = errors(&changed.join("\n"));
            assert!(
                found.iter().any(|error| error.contains(&format!("{wrong:?}"))),
                "{name}:{}: {wrong} for {key} gave {found:?}",
                number + 1
            );
            tried += 1;
        }
    }
    tried
}

#[test]
fn every_misspelt_field_of_the_seed_files_is_rejected_by_name() {
    let mut tried = 0;
    for name in ["istio-config.yaml", "kubernetes-service.yaml"] {
        tried += assert_misspellings(name, &seed(name));
    }
    assert!(tried > 300, "only {tried} misspellings were tried");
}

#[test]
fn misspelt_fields_of_a_match_are_rejected_by_name() {
    for (right, wrong) in [("exact: premium", "exatc: premium"), ("headers:", "haeders:")] {
        let found = errors(&seed("istio-config.yaml").replacen(right, wrong, 1));
        let word = wrong.split(':').next().unwrap();
        assert!(found.iter().any(|error| error.contains(word)), "{wrong}: {found:?}");
    }
}

#[test]
fn misspelt_kinds_versions_and_values_are_rejected_by_name() {
    for (file, right, wrong) in [
        ("istio-config.yaml", "kind: VirtualService", "kind: VirtualServce"),
        ("istio-config.yaml", "kind: DestinationRule", "kind: DestinationRules"),
        ("istio-config.yaml", "networking.istio.io/v1alpha3", "networking.istio.io/v1alpha"),
        ("istio-config.yaml", "networking.istio.io/v1alpha3", "netwroking.istio.io/v1alpha3"),
        ("kubernetes-service.yaml", "kind: Service", "kind: Servcie"),
        ("kubernetes-service.yaml", "kind: Deployment", "kind: Deploymnet"),
        ("kubernetes-service.yaml", "apiVersion: v1", "apiVersion: v11"),
        ("kubernetes-service.yaml", "apiVersion: apps/v1", "apiVersion: app/v1"),
        ("kubernetes-service.yaml", "protocol: TCP", "protocol: TPC"),
        ("kubernetes-service.yaml", "type: ClusterIP", "type: ClusterIp"),
    ] {
        let text = seed(file);
        assert!(text.contains(right));
        let found = errors(&text.replacen(right, wrong, 1));
        let value = wrong.split([' ', '/']).next_back().unwrap();
        let group = wrong.split([' ', '/']).nth(1).unwrap();
        assert!(
            found.iter().any(|error| error.contains(value) || error.contains(group)),
            "{wrong}: {found:?}"
        );
    }
}

pub(super) fn virtual_service(http: &str) -> String {
    let indented: String = http.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x}}\nspec:\n  hosts: [a]\n  http:\n{indented}"
    )
}

pub(super) fn rule(spec: &str) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: x}}\nspec:\n  host: a\n{indented}"
    )
}

/// Each mistake in a list of rules, and a part of what must be said about it.
pub(super) fn assert_named(cases: &[(&str, &str)]) {
    for (http, expected) in cases {
        let found = errors(&virtual_service(&http.replace("ROUTE", "route: [{destination: {host: a}}]")));
        assert!(found.iter().any(|error| error.contains(expected)), "{http}: {found:?}");
    }
}

#[test]
fn mistakes_in_rules_are_named() {
    let cases: &[(&str, &str)] = &[
        ("- route: [{destination: {host: a}, weight: -1}]", "http[0].route[0].weight: -1 is not a weight"),
        (
            "- route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 0}]",
            "http[0].route: all weights are 0",
        ),
        ("- route: [{weight: 10}]", "route[0]: destination is missing"),
        ("- route: []", "http[0]: it does nothing"),
        ("- route: [{destination: {host: '*.a'}}]", "destination.host: a destination is one host"),
        ("- route: [{destination: {host: ''}}]", "destination.host: host is empty"),
        ("- route: [{destination: {host: a, port: {number: 70000}}}]", "port.number: 70000 is not between"),
        ("- match: [{uri: {regex: '('}}]\n  ROUTE", "match[0].uri.regex: \"(\" is not a regular expression"),
        ("- match: [{}]\n  ROUTE", "match[0]: an empty match"),
        ("- match: [{uri: {}}]\n  ROUTE", "uri: one of exact, prefix and regex"),
        ("- match: [{uri: {exact: /a, prefix: /b}}]\n  ROUTE", "uri: only one of exact, prefix and regex"),
        ("- match: [{headers: {'a b': {exact: x}}}]\n  ROUTE", "headers.a b: \"a b\" is not a header name"),
    ];
    assert_named(cases);
}

#[test]
fn mistakes_in_actions_are_named() {
    let cases: &[(&str, &str)] = &[
        ("- ROUTE\n  redirect: {uri: /x}", "http[0]: only one of route, redirect and directResponse"),
        ("- redirect: {uri: /x}\n  rewrite: {uri: /y}", "rewrite: not possible together with redirect"),
        ("- redirect: {redirectCode: 200}", "redirectCode: 200 is no redirection"),
        ("- redirect: {prefixRewrite: /x}", "prefixRewrite: needs a match by uri.prefix"),
        (
            "- redirect: {port: 80, derivePort: FROM_REQUEST_PORT}",
            "redirect: only one of port and derivePort",
        ),
        ("- redirect: {derivePort: FROM_REQUEST}", "derivePort: \"FROM_REQUEST\" is not a value"),
        ("- directResponse: {status: 700}", "directResponse: 700 is not a status"),
        ("- directResponse: {status: 200, body: {bytes: '*'}}", "body.bytes: '*' is not a base64 digit"),
        (
            "- ROUTE\n  headers: {request: {set: {'a b': x}}}",
            "headers.request.set.a b: \"a b\" is not a header",
        ),
        ("- ROUTE\n  headers: {request: {remove: [':path']}}", "request.remove[0]: :path cannot be removed"),
        ("- ROUTE\n  timeout: fast", "timeout: \"fast\" is not a duration"),
        ("- ROUTE\n  timeout: -1s", "timeout: \"-1s\" is negative"),
        ("- ROUTE\n  timeout: 10", "timeout: 10 has no unit"),
        ("- ROUTE\n  timeout: 1us", "timeout: the shortest timeout is 1ms"),
        (
            "- ROUTE\n  mirror: {host: b}\n  mirrors: [{destination: {host: c}}]",
            "only one of mirror and mirrors",
        ),
        (
            "- ROUTE\n  mirror: {host: b}\n  mirrorPercentage: {value: 101}",
            "mirrorPercentage: 101 is not a perc",
        ),
        (
            "- ROUTE\n  mirrors: [{destination: {host: b}, percentage: {value: -1}}]",
            "percentage: -1 is not a perc",
        ),
        ("- ROUTE\n  retries: {attempts: 0, perTryTimeout: 1s}", "retries.attempts: 0 switches retries off"),
        ("- ROUTE\n  retries: {attempts: 2, perTryTimeout: 2s}\n  timeout: 1s", "perTryTimeout: longer than"),
        (
            "- ROUTE\n  fault: {abort: {percentage: {value: 120}}}",
            "fault.abort.percentage: 120 is not a perc",
        ),
        (
            "- ROUTE\n  rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
            "only one of uri and uriRegex",
        ),
        (
            "- ROUTE\n  rewrite: {uriRegexRewrite: {match: a, rewrite: '\\x'}}",
            "rewrite.uriRegexRewrite.rewrite: ",
        ),
        ("- ROUTE\n  rewrite: {}", "rewrite: it rewrites nothing"),
        ("- route: [{destination: {host: 'a:80'}}]", "destination.host: host \"a:80\" is not a host: a port"),
        ("- route: [{destination: {host: a..b}}]", "destination.host: host \"a..b\" is not a host: a part"),
        (
            "- route: [{destination: {host: a}, weight: 99999999999}]",
            "weight: 99999999999 is not a weight: 0 to 21",
        ),
        ("- match: [{uri: {regex: '*'}}]\n  ROUTE", "uri.regex: \"*\" is not a regular expression here"),
        ("- redirect: {}", "http[0].redirect: it leads back to where the request came from"),
        ("- redirect: {uri: x}", "redirect.uri: \"x\" is not a path"),
        ("- redirect: {uri: /x, port: 0}", "redirect.port: a port is a number"),
        ("- redirect: {authority: 'a b'}", "redirect.authority: \"a b\" is not an authority"),
        ("- ROUTE\n  rewrite: {uri: '/a b'}", "rewrite.uri: \"/a b\" is not a path"),
        ("- ROUTE\n  rewrite: {uri: ''}", "rewrite: it rewrites nothing"),
        ("- ROUTE\n  rewrite: {authority: 'a/b'}", "rewrite.authority: \"a/b\" is not an authority"),
        (
            "- ROUTE\n  headers: {request: {set: {Host: 'a b'}}}",
            "headers.request.set.Host: \"a b\" is not an authority",
        ),
        (
            "- ROUTE\n  headers: {response: {set: {Content-Length: '5'}}}",
            "headers.response.set.Content-Length: Content-Length belongs to the connection",
        ),
        ("- ROUTE\n  mirror: {host: '*'}", "http[0].mirror.host: a destination is one host"),
        ("- ROUTE\n  mirror: {host: b}\n  mirrorPercent: 101", "mirrorPercent: 101 is not a perc"),
        ("- ROUTE\n  corsPolicy: {allowMethods: ['A B']}", "allowMethods[0]: \"A B\" is not a method"),
    ];
    assert_named(cases);
}

#[test]
fn a_body_of_a_mebibyte_is_the_largest() {
    let response = |size| {
        virtual_service(&format!("- directResponse: {{status: 200, body: {{string: {}}}}}", "x".repeat(size)))
    };
    assert_eq!(errors(&response(1 << 20)), Vec::<String>::new());
    assert!(errors(&response((1 << 20) + 1))[0].contains("the body has 1048577 bytes"));
}

#[test]
fn mistakes_in_destination_rules_are_named() {
    let cases: &[(&str, &str)] = &[
        ("trafficPolicy: {}", "spec.trafficPolicy: it has no field"),
        ("trafficPolicy: {connectionPool: {}}", "connectionPool: it has no field"),
        (
            "trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}",
            "tcp.maxConnections: cannot be negative",
        ),
        (
            "trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 999999999}}}",
            "the most is 536870912",
        ),
        ("trafficPolicy: {loadBalancer: {simple: ROUND}}", "loadBalancer.simple: \"ROUND\" is not a value"),
        (
            "trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}",
            "only one of simple and consistentHash",
        ),
        ("trafficPolicy: {loadBalancer: {consistentHash: {}}}", "exactly one of httpHeaderName"),
        (
            "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: 'a b'}}}}",
            "httpCookie.name: \"a b\" is not a name of a cookie",
        ),
        (
            "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: a, path: '/;x'}}}}",
            "httpCookie.path: \"/;x\" is not a path of a cookie",
        ),
        (
            "trafficPolicy: {loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}}",
            "warmup: only possible with",
        ),
        ("trafficPolicy: {loadBalancer: {warmup: {minimumPercent: 1}}}", "warmup: duration is needed"),
        (
            "trafficPolicy: {portLevelSettings: [{connectionPool: {tcp: {maxConnections: 1}}}]}",
            "port.number is need",
        ),
        (
            "trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
            "maxEjectionPercent: 101 is not a perc",
        ),
        (
            "trafficPolicy: {tls: {mode: MUTAL}}",
            "tls.mode: \"MUTAL\" is not a value of this field, did you mean MUTUAL",
        ),
        ("subsets: [{name: v1, labels: {a: b}}, {name: v1, labels: {a: c}}]", "subset v1 is defined twice"),
        ("subsets: [{name: 'v 1', labels: {a: b}}]", "subsets[0].name: name \"v 1\" holds"),
        ("subsets: [{name: v1, labels: {a: 1.10}}]", "labels.a: 1.10 is a number in YAML"),
    ];
    for (spec, expected) in cases {
        let found = errors(&rule(spec));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
}

/// Fields that are part of the schema and that nothing acts on: each must say so itself.
#[test]
fn nothing_is_accepted_in_silence() {
    for http in [
        "retries: {retryRemoteLocalities: false}",
        "delegate: {name: x}",
        "match: [{gateways: [edge], uri: {prefix: /}}]",
        "match: [{statPrefix: x, uri: {prefix: /}}]",
        "headers: {request: {set: {x-peer: '%DOWNSTREAM_REMOTE_ADDRESS%'}}}",
        "headers: {response: {add: {x-id: 'id %REQ(X-ID)%!'}}}",
    ] {
        let said = remarks(&virtual_service(&format!("- route: [{{destination: {{host: a}}}}]\n  {http}")));
        assert!(said.iter().any(|remark| remark.contains("accepted, not enforced yet")), "{http}: {said:?}");
    }
    for policy in [
        "outlierDetection: {outlierDetectionHttpErrorCodes: [418]}",
        "tunnel: {targetHost: a, targetPort: 80}",
        "proxyProtocol: {version: V1}",
        "loadBalancer: {localityLbSetting: {enabled: true}}",
        "loadBalancer: {zoneAwareLbSetting: {enabled: true}}",
        "loadBalancer: {simple: PASSTHROUGH}",
        "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 7}}}",
        "connectionPool: {http: {http2KeepAlive: {interval: 1s}}}",
    ] {
        let said = remarks(&rule(&format!("trafficPolicy: {{{policy}}}")));
        assert!(
            said.iter().any(|remark| remark.contains("accepted, not enforced yet")),
            "{policy}: {said:?}"
        );
    }
    for field in
        ["sessionAffinity: ClientIP", "internalTrafficPolicy: Local", "trafficDistribution: PreferClose"]
    {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}], {field}}}\n"
        );
        assert!(remarks(&text)[0].contains("accepted, not enforced yet"), "{field}");
    }
    for (kind, field) in
        [("tcp", "[{route: [{destination: {host: a}}]}]"), ("tls", "[{match: [{sniHosts: [a]}]}]")]
    {
        let text = virtual_service("").replace("  http:\n", &format!("  {kind}: {field}\n"));
        assert!(remarks(&text).iter().any(|remark| remark.contains("not enforced yet")), "{text}");
    }
}

#[test]
fn deprecated_names_of_a_share_are_read() {
    for name in ["mirrorPercent", "mirror_percent"] {
        let said = remarks(&virtual_service(&format!(
            "- route: [{{destination: {{host: a}}}}]\n  mirror: {{host: b}}\n  {name}: 50"
        )));
        assert_eq!(said, ["info spec.http[0].mirrorPercent: deprecated, use mirrorPercentage"], "{name}");
    }
}

#[test]
fn rules_behind_a_catch_all_are_named() {
    let to = "route: [{destination: {host: a}}]";
    let said = remarks(&virtual_service(&format!("- {to}\n- match: [{{uri: {{prefix: /x}}}}]\n  {to}")));
    assert_eq!(said, ["warning spec.http[1]: never reached: http[0] takes every request"]);
    let said = remarks(&virtual_service(&format!("- match: [{{port: 80}}]\n  {to}\n- {to}")));
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn foreign_kinds_are_judged_by_their_group() {
    let object =
        |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
    for (version, kind, remark) in [
        ("v1", "ConfigMap", "info : ignored: not read by the mesh"),
        ("networking.k8s.io/v1", "Ingress", "info : ignored: not read by the mesh"),
        ("policy/v1", "PodDisruptionBudget", "info : ignored: not read by the mesh"),
        ("v1", "Foo", "error kind: unknown kind \"Foo\" of \"v1\"; the mesh reads Service, Pod"),
        ("example.com/v1", "Widget", "error kind: unknown kind \"Widget\" of \"example.com/v1\""),
        ("serving.knative.dev/v1", "Service", "error kind: unknown kind \"Service\" of"),
        ("v1", "List", "error : a List needs items: a list of objects"),
        ("v1", "PodList", "error : a PodList needs items: a list of Pod"),
        (
            "networking.istio.io/v1",
            "Gateway",
            "error kind: Gateway of networking.istio.io is not supported; the mesh reads Service",
        ),
        (
            "networking.istio.io/v2",
            "VirtualService",
            "error apiVersion: VirtualService has no version \"v2\", supported: networking.istio.io/v1alpha3",
        ),
        (
            "policy.pillion.dev/v1alpha1",
            "RetryPolicy",
            "error kind: RetryPolicy of policy.pillion.dev is not supported",
        ),
    ] {
        let said = remarks(&object(version, kind));
        assert!(said[0].starts_with(remark), "{version} {kind}: {said:?}");
    }
    assert_eq!(errors("just text"), [": expected an object, found \"just text\""]);
    assert_eq!(errors("a: b"), [": apiVersion is missing", ": kind is missing"]);
}

#[test]
fn lists_are_unpacked() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}\n";
    let documents = read_file("x.yaml", text, &naming()).unwrap();
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0].key.as_ref().unwrap().to_string(), "Service default/a");
    let text =
        "apiVersion: v1\nkind: ServiceList\nitems:\n- {metadata: {name: a}, spec: {ports: [{port: 1}]}}\n";
    let documents = read_file("x.yaml", text, &naming()).unwrap();
    assert_eq!(documents[0].object.as_ref().unwrap().key.to_string(), "Service default/a");
    assert_eq!(
        errors("apiVersion: v1\nkind: List\nitmes: []\n"),
        [": unknown field \"itmes\", did you mean \"items\"?"]
    );
}

proptest! {
    /// Whatever a line of a good file is replaced by, it is read or refused, and never panics.
    #[test]
    fn damage_is_survived(line in 0..60_usize, text in "[ -~]{0,40}") {
        for name in ["istio-config.yaml", "kubernetes-service.yaml"] {
            let seed = seed(name);
            let damaged: Vec<&str> =
                seed.lines().enumerate().map(|(at, old)| if at == line { text.as_str() } else { old }).collect();
            for problem in read_file("x.yaml", &damaged.join("\n"), &naming()).into_iter().flatten().flat_map(|d| d.problems) {
                prop_assert!(problem.line >= 1);
                prop_assert!(problem.severity == Severity::Error || !problem.reason.is_empty());
            }
        }
    }
}
