use pillion_policy::cluster::{CertificateFiles, ClusterTls, Origination};

use crate::{
    intake::{
        read_file,
        tests::{errors, remarks, rule},
    },
    naming::Naming,
    object::Object,
};

fn with(tls: &str) -> String {
    rule(&format!("trafficPolicy: {{tls: {{{tls}}}}}"))
}

fn tls(tls: &str) -> ClusterTls {
    let naming = Naming::new(&pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let document = read_file("x.yaml", &with(tls), &naming).unwrap().remove(0);
    let stored = document.object.unwrap_or_else(|| panic!("{tls}: {:?}", document.problems));
    let Object::DestinationRule(rule) = &stored.object else { panic!("{stored:?}") };
    rule.policy.as_ref().unwrap().all.tls.clone().unwrap()
}

#[test]
fn each_mode_says_how_connections_are_secured() {
    assert_eq!(tls("mode: DISABLE"), ClusterTls::Disable);
    assert_eq!(tls(""), ClusterTls::Disable);
    assert_eq!(tls("mode: ISTIO_MUTUAL"), ClusterTls::Mutual(Vec::new()));
    assert_eq!(
        tls("mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://td/ns/a/sa/b']"),
        ClusterTls::Mutual(vec!["spiffe://td/ns/a/sa/b".parse().unwrap()])
    );
    assert_eq!(tls("mode: SIMPLE"), ClusterTls::Originate(Box::default()));
    assert_eq!(
        tls("mode: SIMPLE, insecureSkipVerify: true, sni: ''"),
        ClusterTls::Originate(Box::new(Origination { insecure_skip_verify: true, ..Origination::default() }))
    );
    assert_eq!(
        tls(
            "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem, sni: a.example.com, \
             subjectAltNames: [b.example.com]"
        ),
        ClusterTls::Originate(Box::new(Origination {
            client_certificate: Some(CertificateFiles {
                chain: "/c.pem".to_owned(),
                key: "/k.pem".to_owned()
            }),
            roots: Some("/ca.pem".to_owned()),
            sni: Some("a.example.com".parse().unwrap()),
            subject_alt_names: vec!["b.example.com".to_owned()],
            insecure_skip_verify: false,
        }))
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (tls, expected) in [
        ("mode: MUTUAL", "tls: MUTUAL needs clientCertificate and privateKey"),
        ("mode: MUTUAL, clientCertificate: /c", "tls: MUTUAL needs clientCertificate and privateKey"),
        ("mode: MUTUAL, credentialName: x", "tls: MUTUAL needs clientCertificate and privateKey"),
        ("mode: SIMPLE, clientCertificate: /c", "tls.clientCertificate: SIMPLE shows no certificate"),
        ("mode: SIMPLE, privateKey: /k", "tls.privateKey: SIMPLE shows no certificate"),
        ("mode: SIMPLE, subjectAltNames: ['']", "tls.subjectAltNames[0]: is empty"),
        (
            "mode: SIMPLE, insecureSkipVerify: true, caCertificates: /ca",
            "tls.insecureSkipVerify: cannot stand beside",
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]",
            "tls.insecureSkipVerify: cannot stand beside",
        ),
        ("mode: SIMPLE, sni: 'a b'", "tls.sni: host \"a b\""),
        (
            "mode: ISTIO_MUTUAL, caCertificates: /ca",
            "tls.caCertificates: no certificate can be given: ISTIO_MUTUAL has",
        ),
        ("mode: ISTIO_MUTUAL, clientCertificate: /c", "tls.clientCertificate: no certificate can be given"),
        (
            "mode: ISTIO_MUTUAL, insecureSkipVerify: true",
            "tls.insecureSkipVerify: not possible with ISTIO_MUTUAL",
        ),
        (
            "mode: ISTIO_MUTUAL, subjectAltNames: [a.shop]",
            "tls.subjectAltNames[0]: \"a.shop\" is not of the form",
        ),
        ("mode: DISABLE, privateKey: /k", "tls.privateKey: no certificate can be given: DISABLE has none"),
        ("mode: SIMPEL", "tls.mode: \"SIMPEL\" is not a value of this field, did you mean SIMPLE?"),
        ("mode: SIMPLE, cacertificates: /ca", "did you mean \"caCertificates\"?"),
    ] {
        let found = errors(&with(tls));
        assert!(found.iter().any(|error| error.contains(expected)), "{tls}: {found:?}");
    }
}

#[test]
fn what_has_no_effect_is_told() {
    for (tls, expected) in [
        ("", "warning spec.trafficPolicy.tls.mode: it is DISABLE, plain text, unless it is given"),
        ("mode: DISABLE, sni: a", "warning spec.trafficPolicy.tls.sni: has no effect with DISABLE"),
        ("mode: ISTIO_MUTUAL, sni: a", "warning spec.trafficPolicy.tls.sni: has no effect with ISTIO_MUTUAL"),
        (
            "mode: SIMPLE, credentialName: x",
            "warning spec.trafficPolicy.tls.credentialName: accepted, not enforced yet",
        ),
        ("mode: SIMPLE, caCrl: x", "warning spec.trafficPolicy.tls.caCrl: accepted, not enforced yet"),
    ] {
        assert_eq!(remarks(&with(tls)), [expected], "{tls}");
    }
    assert_eq!(remarks(&with("mode: ISTIO_MUTUAL")), Vec::<String>::new());
    let port = "trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}";
    let said = remarks(&rule(port));
    assert!(
        said[0].contains("portLevelSettings[0]: the port does not inherit the tls of the rule"),
        "{said:?}"
    );
}
