use std::{path::PathBuf, time::Duration};

use pillion_policy::authentication::{JwtKeys, JwtRule};

use crate::{
    intake::{
        read_file,
        tests::{assert_misspellings, errors, remarks},
    },
    naming::Naming,
    object::Object,
};

fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn request(rule: &str) -> String {
    object("RequestAuthentication", &format!("jwtRules: [{{{rule}}}]"))
}

fn rule(rule: &str) -> JwtRule {
    let naming = Naming::new(&pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let document = read_file("x.yaml", &request(rule), &naming).unwrap().remove(0);
    let stored = document.object.unwrap_or_else(|| panic!("{rule}: {:?}", document.problems));
    let Object::RequestAuthentication(policy) = &stored.object else { panic!("{stored:?}") };
    policy.rules[0].clone()
}

#[test]
fn every_field_is_accepted_and_its_misspellings_are_not() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/security.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(remarks(&text), ["warning spec.jwtRules[0].spaceDelimitedClaims: accepted, not enforced yet"]);
    assert!(assert_misspellings("security.yaml", &text) > 350);
}

#[test]
fn a_token_is_looked_for_where_istio_does_unless_places_are_named() {
    let keys = "issuer: a, jwksUri: 'https://a/keys'";
    let places = |rule: JwtRule| {
        let headers = rule.from_headers.iter().map(|header| format!("{} {:?}", header.name, header.prefix));
        (headers.collect::<Vec<_>>(), rule.from_params, rule.from_cookies)
    };
    let none = Vec::<String>::new;
    assert_eq!(
        places(rule(keys)),
        (vec!["authorization \"Bearer \"".to_owned()], vec!["access_token".to_owned()], none())
    );
    assert_eq!(
        places(rule(&format!("{keys}, fromHeaders: [{{name: X-Token}}]"))),
        (vec!["x-token \"\"".to_owned()], none(), none())
    );
    assert_eq!(places(rule(&format!("{keys}, fromParams: [t]"))), (none(), vec!["t".to_owned()], none()));
    assert_eq!(places(rule(&format!("{keys}, fromCookies: [t]"))), (none(), none(), vec!["t".to_owned()]));
}

#[test]
fn a_token_rule_is_read_in_full() {
    let plain = rule("issuer: a, jwks_uri: 'http://keys.shop:8080/keys'");
    assert_eq!(plain.keys, JwtKeys::Remote("http://keys.shop:8080/keys".to_owned()));
    assert_eq!(
        (plain.timeout, plain.forward, plain.output_payload_to),
        (Duration::from_secs(5), false, None)
    );
    let full = rule(
        "issuer: a, audiences: [b, c], jwks: '{\"keys\": []}', forwardOriginalToken: true, timeout: 250ms, \
         outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Group, claim: realm.group}]",
    );
    assert_eq!(full.keys, JwtKeys::Inline("{\"keys\": []}".to_owned()));
    assert_eq!((full.timeout, full.forward), (Duration::from_millis(250), true));
    assert_eq!(full.audiences, ["b", "c"]);
    assert_eq!(full.output_payload_to.unwrap(), "x-payload");
    let [claim] = full.output_claims.as_slice() else { panic!("{:?}", full.output_claims) };
    assert_eq!((claim.header.as_str(), claim.claim.join("/")), ("x-group", "realm/group".to_owned()));
}

#[test]
fn mistakes_in_request_authentications_are_named() {
    for (given, expected) in [
        ("jwksUri: 'https://a/keys'", "jwtRules[0]: issuer is missing"),
        ("issuer: a", "jwtRules[0]: one of jwksUri and jwks is needed"),
        ("issuer: a, jwks: '', jwksUri: ''", "jwtRules[0]: one of jwksUri and jwks is needed"),
        (
            "issuer: a, jwksUri: 'https://a', jwks: '{\"keys\": []}'",
            "jwtRules[0]: only one of jwksUri and jwks",
        ),
        (
            "issuer: a, jwks_uri: 'https://a', jwks: '{\"keys\": []}'",
            "jwtRules[0]: only one of jwksUri and jwks",
        ),
        ("issuer: a, jwksUri: a/keys", "jwtRules[0].jwksUri: \"a/keys\" is not an http or https URI"),
        ("issuer: a, jwksUri: 'file:///keys'", "jwksUri: \"file:///keys\" is not an http or https URI"),
        ("issuer: a, jwks_uri: keys", "jwtRules[0].jwks_uri: \"keys\" is not an http or https URI"),
        ("issuer: a, jwks: '{keys'", "jwtRules[0].jwks: it is not JSON: mistake in line 1, column 2"),
        ("issuer: a, jwks: '[]'", "jwtRules[0].jwks: it is not a JSON Web Key Set"),
        ("issuer: a, jwks: '{\"keys\": {}}'", "jwtRules[0].jwks: it is not a JSON Web Key Set"),
        ("issuer: a, jwksUri: 'https://a', timeout: 0s", "timeout: must be at least 1ms"),
        ("issuer: a, jwksUri: 'https://a', audiences: ['']", "audiences[0]: is empty"),
        (
            "issuer: a, jwksUri: 'https://a', fromHeaders: [{prefix: x}]",
            "fromHeaders[0].name: \"\" is not a header name",
        ),
        ("issuer: a, jwksUri: 'https://a', fromParams: ['']", "fromParams[0]: is empty"),
        ("issuer: a, jwksUri: 'https://a', fromCookies: ['']", "fromCookies[0]: is empty"),
        (
            "issuer: a, jwksUri: 'https://a', outputPayloadToHeader: Host",
            "outputPayloadToHeader: Host cannot be written",
        ),
        (
            "issuer: a, jwksUri: 'https://a', outputClaimToHeaders: [{header: Connection, claim: a}]",
            "outputClaimToHeaders[0].header: Connection belongs to the connection",
        ),
        (
            "issuer: a, jwksUri: 'https://a', outputClaimToHeaders: [{header: x}]",
            "outputClaimToHeaders[0].claim: a claim is a name",
        ),
        ("issuer: a, jwksUri: 'https://a', fromheaders: []", "did you mean \"fromHeaders\"?"),
    ] {
        let found = errors(&request(given));
        assert!(found.iter().any(|error| error.contains(expected)), "{given}: {found:?}");
    }
    let key_text = errors(&request("issuer: a, jwks: '{\"secret\"'"));
    assert!(key_text.iter().all(|error| !error.contains("secret")), "{key_text:?}");
}

#[test]
fn targets_that_are_no_sidecars_are_told() {
    let told = "accepted, not enforced yet: no sidecar is a target, use selector for workloads";
    for (field, target) in [
        ("targetRef", "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}"),
        ("targetRefs", "[{group: '', kind: Service, name: order}]"),
    ] {
        let text = object("RequestAuthentication", &format!("{field}: {target}"));
        let silent = "info spec: without jwtRules it asks nothing of tokens".to_owned();
        assert_eq!(remarks(&text), [format!("warning spec.{field}: {told}"), silent]);
        for (right, wrong) in [("group:", "gruop:"), ("kind: ", "knid: "), ("name: ", "nam: ")] {
            let (head, spec) = text.split_at(text.find("spec:").unwrap());
            let found = errors(&format!("{head}{}", spec.replace(right, wrong)));
            let word = wrong.split(':').next().unwrap();
            assert!(found.iter().any(|error| error.contains(&format!("{word:?}"))), "{wrong}: {found:?}");
        }
    }
}

#[test]
fn mistakes_in_peer_authentications_are_named() {
    let selected = "selector: {matchLabels: {app: a}}";
    for (spec, expected) in [
        (
            "portLevelMtls: {80: {mode: STRICT}}".to_owned(),
            "spec.portLevelMtls: needs a selector with matchLabels",
        ),
        (
            "selector: {}, portLevelMtls: {80: {mode: STRICT}}".to_owned(),
            "spec.portLevelMtls: needs a selector",
        ),
        (format!("{selected}, portLevelMtls: {{}}"), "spec.portLevelMtls: it names no port"),
        (
            format!("{selected}, portLevelMtls: {{0: {{mode: STRICT}}}}"),
            "portLevelMtls.0: \"0\" is not a port",
        ),
        (
            format!("{selected}, portLevelMtls: {{http: {{mode: STRICT}}}}"),
            "portLevelMtls.http: \"http\" is not a port",
        ),
        (
            format!("{selected}, portLevelMtls: {{70000: {{}}}}"),
            "portLevelMtls.70000: \"70000\" is not a port",
        ),
        (
            "mtls: {mode: STRIKT}".to_owned(),
            "mtls.mode: \"STRIKT\" is not a value of this field, did you mean STRICT?",
        ),
        ("mtls: {mode: strict}".to_owned(), "mtls.mode: \"strict\" is not a value"),
        (
            "selector: {matchLabels: {app: 'a*'}}".to_owned(),
            "selector.matchLabels.app: '*' has no meaning here",
        ),
        ("selector: {matchExpressions: []}".to_owned(), "selector.matchExpressions: unknown field"),
        ("mtsl: {mode: STRICT}".to_owned(), "unknown field \"mtsl\", did you mean \"mtls\"?"),
    ] {
        let found = errors(&object("PeerAuthentication", &spec));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
}

#[test]
fn what_a_peer_authentication_leaves_open_is_told() {
    let silent = "info spec: it says nothing: the mode is that of the next wider policy";
    assert_eq!(remarks(&object("PeerAuthentication", "")), [silent]);
    assert_eq!(remarks(&object("PeerAuthentication", "mtls: {mode: UNSET}")), [silent]);
    assert_eq!(
        remarks(&object("PeerAuthentication", "selector: {}, mtls: {mode: STRICT}")),
        ["warning spec.selector: without matchLabels it selects every workload"]
    );
    let root = object("PeerAuthentication", "selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}")
        .replace("namespace: shop", "namespace: istio-system");
    assert_eq!(
        remarks(&root),
        ["warning spec.selector: not used: istio-system has policies for the whole mesh only"]
    );
}
