//! Identities, authentication and authorization, from policy to protobuf.

use pillion_policy::{
    authentication::{ClaimToHeader, JwtKeys, JwtRule, PeerTls, TokenHeader},
    authorization::{
        Action, AddressKey, AuthorizationPolicy, Choice, Condition, Operation, PathPattern, Rule, Source,
        TextKey, TextMatch,
    },
    cluster::{ClusterTls, Origination},
    mesh::Trust,
};

use super::duration;
use crate::pillion as wire;

pub(super) fn trust(trust: &Trust) -> wire::Trust {
    wire::Trust { roots: trust.roots.clone(), signer: trust.signer.clone() }
}

pub(super) fn peer_tls(mode: PeerTls) -> wire::PeerTls {
    match mode {
        PeerTls::Permissive => wire::PeerTls::Permissive,
        PeerTls::Strict => wire::PeerTls::Strict,
        PeerTls::Disable => wire::PeerTls::Disable,
    }
}

pub(super) fn cluster_tls(tls: &ClusterTls) -> Option<wire::ClusterTls> {
    use wire::cluster_tls::Mode;
    let mode = match tls {
        ClusterTls::Auto => return None,
        ClusterTls::Disable => Mode::Disable(wire::PlainText {}),
        ClusterTls::Mutual(names) => {
            Mode::Mutual(wire::MutualTls { names: names.iter().map(ToString::to_string).collect() })
        }
        ClusterTls::Originate(origination) => Mode::Originate(self::origination(origination)),
    };
    Some(wire::ClusterTls { mode: Some(mode) })
}

fn origination(origination: &Origination) -> wire::Origination {
    let files = origination.client_certificate.as_ref();
    wire::Origination {
        client_certificate: files
            .map(|files| wire::CertificateFiles { chain: files.chain.clone(), key: files.key.clone() }),
        roots: origination.roots.clone(),
        sni: origination.sni.as_ref().map(ToString::to_string),
        subject_alt_names: origination.subject_alt_names.clone(),
        insecure_skip_verify: origination.insecure_skip_verify,
    }
}

pub(super) fn authorization(policy: &AuthorizationPolicy) -> wire::AuthorizationPolicy {
    let action = match policy.action {
        Action::Allow => wire::AuthorizationAction::Allow,
        Action::Deny => wire::AuthorizationAction::Deny,
        Action::Audit => wire::AuthorizationAction::Audit,
    };
    wire::AuthorizationPolicy {
        name: policy.name.as_ref().to_owned(),
        action: action.into(),
        rules: policy.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> wire::AuthorizationRule {
    wire::AuthorizationRule {
        from: rule.from.iter().map(source).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.iter().map(condition).collect(),
    }
}

fn source(source: &Source) -> wire::AuthorizationSource {
    wire::AuthorizationSource {
        principals: choice(&source.principals, TextMatch::text),
        request_principals: choice(&source.request_principals, TextMatch::text),
        namespaces: choice(&source.namespaces, TextMatch::text),
        service_accounts: choice(&source.service_accounts, String::clone),
        ip_blocks: choice(&source.ip_blocks, ToString::to_string),
        remote_ip_blocks: choice(&source.remote_ip_blocks, ToString::to_string),
    }
}

fn operation(operation: &Operation) -> wire::AuthorizationOperation {
    wire::AuthorizationOperation {
        hosts: choice(&operation.hosts, TextMatch::text),
        ports: choice(&operation.ports, ToString::to_string),
        methods: choice(&operation.methods, TextMatch::text),
        paths: choice(&operation.paths, PathPattern::text),
    }
}

fn condition(condition: &Condition) -> wire::AuthorizationCondition {
    use wire::authorization_condition::Key;
    let (key, values) = match condition {
        Condition::Header { name, values } => {
            (Key::Header(name.as_str().to_owned()), choice(values, TextMatch::text))
        }
        Condition::Claim { path, values } => {
            (Key::Claim(wire::Claim { path: path.clone() }), choice(values, TextMatch::text))
        }
        Condition::Text { key, values } => {
            (Key::Text(text_key(*key).into()), choice(values, TextMatch::text))
        }
        Condition::Address { key, values } => {
            (Key::Address(address_key(*key).into()), choice(values, ToString::to_string))
        }
        Condition::Port(values) => (Key::Port(wire::DestinationPort {}), choice(values, ToString::to_string)),
    };
    wire::AuthorizationCondition { key: Some(key), values }
}

fn text_key(key: TextKey) -> wire::TextKey {
    match key {
        TextKey::SourceNamespace => wire::TextKey::SourceNamespace,
        TextKey::SourcePrincipal => wire::TextKey::SourcePrincipal,
        TextKey::SourceServiceAccount => wire::TextKey::SourceServiceAccount,
        TextKey::TokenPrincipal => wire::TextKey::TokenPrincipal,
        TextKey::TokenAudiences => wire::TextKey::TokenAudiences,
        TextKey::TokenPresenter => wire::TextKey::TokenPresenter,
        TextKey::Sni => wire::TextKey::Sni,
    }
}

fn address_key(key: AddressKey) -> wire::AddressKey {
    match key {
        AddressKey::Source => wire::AddressKey::Source,
        AddressKey::Remote => wire::AddressKey::Remote,
        AddressKey::Destination => wire::AddressKey::Destination,
    }
}

fn choice<T>(choice: &Choice<T>, text: impl Fn(&T) -> String) -> Option<wire::Choice> {
    (!choice.is_empty()).then(|| wire::Choice {
        any_of: choice.any_of.iter().map(&text).collect(),
        none_of: choice.none_of.iter().map(&text).collect(),
    })
}

pub(super) fn jwt_rule(rule: &JwtRule) -> wire::JwtRule {
    let token_header = |TokenHeader { name, prefix }: &TokenHeader| wire::TokenHeader {
        name: name.as_str().to_owned(),
        prefix: prefix.clone(),
    };
    let claim_to_header = |ClaimToHeader { header, claim }: &ClaimToHeader| wire::ClaimToHeader {
        header: header.as_str().to_owned(),
        claim: Some(wire::Claim { path: claim.clone() }),
    };
    let keys = match &rule.keys {
        JwtKeys::Inline(keys) => wire::jwt_rule::Keys::Inline(keys.clone()),
        JwtKeys::Remote(uri) => wire::jwt_rule::Keys::Remote(uri.clone()),
    };
    wire::JwtRule {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        keys: Some(keys),
        from_headers: rule.from_headers.iter().map(token_header).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to: rule.output_payload_to.as_ref().map(|name| name.as_str().to_owned()),
        output_claims: rule.output_claims.iter().map(claim_to_header).collect(),
        forward: rule.forward,
        timeout: Some(duration(rule.timeout)),
    }
}
