//! Strategies for identities, authentication and authorization. What is deep is boxed: a tree of values on the stack would
//! not fit there.

use std::time::Duration;

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

use super::{header_name, hostname, label};
use crate::{
    authentication::{ClaimToHeader, JwtKeys, JwtRule, PeerTls, TokenHeader},
    authorization::{
        Action, AddressKey, AuthorizationPolicy, Choice, Condition, Operation, PathPattern, Rule, Source,
        TextKey, TextMatch,
    },
    cluster::{CertificateFiles, ClusterTls, Origination},
    identity::{Identity, TrustDomain},
    mesh::Trust,
};

/// Any trust domain.
pub fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z0-9._-]{1,12}".prop_filter_map("allowed characters", |name| TrustDomain::new(&name).ok())
}

/// Any identity.
pub fn identity() -> impl Strategy<Value = Identity> {
    (trust_domain(), label(), label())
        .prop_map(|(domain, namespace, account)| Identity::new(&domain, &namespace, &account))
}

pub(super) fn trust() -> impl Strategy<Value = Trust> {
    (vec(".{0,8}", 0..=3), "[0-9a-f]{64}").prop_map(|(roots, signer)| Trust { roots, signer })
}

pub(super) fn peer_tls() -> impl Strategy<Value = PeerTls> {
    select(vec![PeerTls::Permissive, PeerTls::Strict, PeerTls::Disable])
}

pub(super) fn cluster_tls() -> impl Strategy<Value = ClusterTls> {
    let files = ("/[a-z]{1,8}", "/[a-z]{1,8}").prop_map(|(chain, key)| CertificateFiles { chain, key });
    let names = vec("[a-z.]{1,8}", 0..=2);
    let origination =
        (option::of(files), option::of("/[a-z]{1,8}"), option::of(hostname()), names, any::<bool>())
            .prop_map(|(client_certificate, roots, sni, subject_alt_names, insecure_skip_verify)| {
                Origination { client_certificate, roots, sni, subject_alt_names, insecure_skip_verify }
            });
    prop_oneof![
        Just(ClusterTls::Auto),
        Just(ClusterTls::Disable),
        vec(identity(), 0..=2).prop_map(ClusterTls::Mutual),
        origination.prop_map(|origination| ClusterTls::Originate(Box::new(origination))),
    ]
    .boxed()
}

/// Any authorization policy.
pub fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let rule = (vec(source(), 0..=2), vec(operation(), 0..=2), vec(condition(), 0..=2))
        .prop_map(|(from, to, when)| Rule { from, to, when });
    let action = select(vec![Action::Allow, Action::Deny, Action::Audit]);
    ("[a-z]{1,5}/[a-z]{1,5}", action, vec(rule, 0..=2))
        .prop_map(|(name, action, rules)| AuthorizationPolicy { name: name.into(), action, rules })
        .boxed()
}

fn choice<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Choice<T>> {
    (vec(value.clone(), 0..=2), vec(value, 0..=2)).prop_map(|(any_of, none_of)| Choice { any_of, none_of })
}

fn text_match() -> impl Strategy<Value = TextMatch> + Clone {
    select(vec!["a", "b/c", "a*", "*c", "*", "GET"])
        .prop_filter_map("is valid", |text| TextMatch::new(text).ok())
}

fn path_pattern() -> impl Strategy<Value = PathPattern> + Clone {
    select(vec!["/a", "/a/*", "*.html", "/a/{*}/b", "/{**}"])
        .prop_filter_map("is valid", |text| PathPattern::new(text).ok())
}

fn block() -> impl Strategy<Value = ipnet::IpNet> + Clone {
    select(vec!["10.0.0.0/8", "127.0.0.1/32", "fd00::/64"])
        .prop_filter_map("is a block", |text| text.parse().ok())
}

fn source() -> impl Strategy<Value = Source> {
    let texts = (choice(text_match()), choice(text_match()), choice(text_match()));
    (texts, choice("[a-z]{1,3}/[a-z]{1,3}"), choice(block()), choice(block())).prop_map(
        |((principals, request_principals, namespaces), service_accounts, ip_blocks, remote_ip_blocks)| {
            Source {
                principals,
                request_principals,
                namespaces,
                service_accounts,
                ip_blocks,
                remote_ip_blocks,
            }
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    (choice(text_match()), choice(any::<u16>()), choice(text_match()), choice(path_pattern()))
        .prop_map(|(hosts, ports, methods, paths)| Operation { hosts, ports, methods, paths })
}

fn condition() -> impl Strategy<Value = Condition> {
    let text_key = select(vec![
        TextKey::SourceNamespace,
        TextKey::SourcePrincipal,
        TextKey::SourceServiceAccount,
        TextKey::TokenPrincipal,
        TextKey::TokenAudiences,
        TextKey::TokenPresenter,
        TextKey::Sni,
    ]);
    let address_key = select(vec![AddressKey::Source, AddressKey::Remote, AddressKey::Destination]);
    prop_oneof![
        (header_name(), choice(text_match())).prop_map(|(name, values)| Condition::Header { name, values }),
        (vec("[a-z]{1,4}", 1..=2), choice(text_match()))
            .prop_map(|(path, values)| Condition::Claim { path, values }),
        (text_key, choice(text_match())).prop_map(|(key, values)| Condition::Text { key, values }),
        (address_key, choice(block())).prop_map(|(key, values)| Condition::Address { key, values }),
        choice(any::<u16>()).prop_map(Condition::Port),
    ]
    .boxed()
}

/// Any rule about tokens.
pub fn jwt_rule() -> impl Strategy<Value = JwtRule> {
    let keys =
        prop_oneof![".{0,8}".prop_map(JwtKeys::Inline), "https://[a-z]{1,8}/".prop_map(JwtKeys::Remote)];
    let header = (header_name(), "(Bearer )?").prop_map(|(name, prefix)| TokenHeader { name, prefix });
    let claim =
        (header_name(), vec("[a-z]{1,4}", 1..=2)).prop_map(|(header, claim)| ClaimToHeader { header, claim });
    let texts = || vec("[a-z]{1,4}", 0..=2);
    let output = (option::of(header_name()), vec(claim, 0..=2), any::<bool>(), 0..100_000_u64);
    ("[a-z]{1,8}", texts(), keys, vec(header, 0..=2), texts(), texts(), output)
        .prop_map(|(issuer, audiences, keys, from_headers, from_params, from_cookies, output)| JwtRule {
            issuer,
            audiences,
            keys,
            from_headers,
            from_params,
            from_cookies,
            output_payload_to: output.0,
            output_claims: output.1,
            forward: output.2,
            timeout: Duration::from_millis(output.3),
        })
        .boxed()
}

pub(super) fn port_tls() -> impl Strategy<Value = std::collections::BTreeMap<u16, PeerTls>> {
    btree_map(any::<u16>(), peer_tls(), 0..=2)
}
