//! Identities, authentication and authorization, from protobuf to policy.

use std::{fmt::Display, str::FromStr};

use pillion_policy::{
    Invalid,
    authentication::{ClaimToHeader, JwtKeys, JwtRule, PeerTls, TokenHeader},
    authorization::{
        Action, AddressKey, AuthorizationPolicy, Choice, Condition, MAX_RULES, Operation, PathPattern, Rule,
        Source, TextKey, TextMatch,
    },
    cluster::{CertificateFiles, ClusterTls, Origination},
    mesh::Trust,
};

use super::{duration, header_name, known, list, optional, required, text, unknown};
use crate::pillion as wire;

pub(super) fn trust(trust: wire::Trust) -> Result<Trust, Invalid> {
    Ok(Trust { roots: trust.roots, signer: trust.signer })
}

pub(super) fn peer_tls(field: &str, mode: i32) -> Result<PeerTls, Invalid> {
    Ok(match known(field, mode)? {
        wire::PeerTls::Permissive => PeerTls::Permissive,
        wire::PeerTls::Strict => PeerTls::Strict,
        wire::PeerTls::Disable => PeerTls::Disable,
    })
}

pub(super) fn cluster_tls(tls: wire::ClusterTls) -> Result<ClusterTls, Invalid> {
    use wire::cluster_tls::Mode;
    Ok(match tls.mode.ok_or_else(|| unknown("mode"))? {
        Mode::Disable(wire::PlainText {}) => ClusterTls::Disable,
        Mode::Mutual(mutual) => ClusterTls::Mutual(list("names", mutual.names, |name| text("name", &name))?),
        Mode::Originate(origination) => ClusterTls::Originate(Box::new(self::origination(origination)?)),
    })
}

fn origination(origination: wire::Origination) -> Result<Origination, Invalid> {
    let files = |files: wire::CertificateFiles| CertificateFiles { chain: files.chain, key: files.key };
    Ok(Origination {
        client_certificate: origination.client_certificate.map(files),
        roots: origination.roots,
        sni: origination.sni.map(|name| text("sni", &name)).transpose()?,
        subject_alt_names: origination.subject_alt_names,
        insecure_skip_verify: origination.insecure_skip_verify,
    })
}

pub(super) fn authorization(policy: wire::AuthorizationPolicy) -> Result<AuthorizationPolicy, Invalid> {
    if policy.rules.len() > MAX_RULES {
        return Err(Invalid::new(format!("has more than {MAX_RULES}")).within("rules"));
    }
    Ok(AuthorizationPolicy {
        name: policy.name.into(),
        action: match known("action", policy.action)? {
            wire::AuthorizationAction::Allow => Action::Allow,
            wire::AuthorizationAction::Deny => Action::Deny,
            wire::AuthorizationAction::Audit => Action::Audit,
        },
        rules: list("rules", policy.rules, rule)?,
    })
}

fn rule(rule: wire::AuthorizationRule) -> Result<Rule, Invalid> {
    Ok(Rule {
        from: list("from", rule.from, source)?,
        to: list("to", rule.to, operation)?,
        when: list("when", rule.when, condition)?,
    })
}

fn source(source: wire::AuthorizationSource) -> Result<Source, Invalid> {
    Ok(Source {
        principals: choice("principals", source.principals, TextMatch::new)?,
        request_principals: choice("requestPrincipals", source.request_principals, TextMatch::new)?,
        namespaces: choice("namespaces", source.namespaces, TextMatch::new)?,
        service_accounts: choice("serviceAccounts", source.service_accounts, |text| Ok(text.to_owned()))?,
        ip_blocks: choice("ipBlocks", source.ip_blocks, parse)?,
        remote_ip_blocks: choice("remoteIpBlocks", source.remote_ip_blocks, parse)?,
    })
}

fn operation(operation: wire::AuthorizationOperation) -> Result<Operation, Invalid> {
    Ok(Operation {
        hosts: choice("hosts", operation.hosts, TextMatch::new)?,
        ports: choice("ports", operation.ports, parse)?,
        methods: choice("methods", operation.methods, TextMatch::new)?,
        paths: choice("paths", operation.paths, PathPattern::new)?,
    })
}

fn condition(condition: wire::AuthorizationCondition) -> Result<Condition, Invalid> {
    use wire::authorization_condition::Key;
    let values = condition.values;
    let texts = |values| choice("values", values, TextMatch::new);
    Ok(match condition.key.ok_or_else(|| unknown("key"))? {
        Key::Header(name) => {
            Condition::Header { name: header_name("header", &name)?, values: texts(values)? }
        }
        Key::Claim(claim) => Condition::Claim { path: claim.path, values: texts(values)? },
        Key::Text(key) => Condition::Text { key: text_key(key)?, values: texts(values)? },
        Key::Address(key) => {
            Condition::Address { key: address_key(key)?, values: choice("values", values, parse)? }
        }
        Key::Port(wire::DestinationPort {}) => Condition::Port(choice("values", values, parse)?),
    })
}

fn text_key(key: i32) -> Result<TextKey, Invalid> {
    Ok(match known("text", key)? {
        wire::TextKey::SourceNamespace => TextKey::SourceNamespace,
        wire::TextKey::SourcePrincipal => TextKey::SourcePrincipal,
        wire::TextKey::SourceServiceAccount => TextKey::SourceServiceAccount,
        wire::TextKey::TokenPrincipal => TextKey::TokenPrincipal,
        wire::TextKey::TokenAudiences => TextKey::TokenAudiences,
        wire::TextKey::TokenPresenter => TextKey::TokenPresenter,
        wire::TextKey::Sni => TextKey::Sni,
    })
}

fn address_key(key: i32) -> Result<AddressKey, Invalid> {
    Ok(match known("address", key)? {
        wire::AddressKey::Source => AddressKey::Source,
        wire::AddressKey::Remote => AddressKey::Remote,
        wire::AddressKey::Destination => AddressKey::Destination,
    })
}

/// A choice of values; an absent one asks nothing.
fn choice<T>(
    field: &str,
    choice: Option<wire::Choice>,
    value: impl Fn(&str) -> Result<T, Invalid>,
) -> Result<Choice<T>, Invalid> {
    let decode = |choice: wire::Choice| {
        Ok(Choice {
            any_of: list("anyOf", choice.any_of, |text: String| value(&text))?,
            none_of: list("noneOf", choice.none_of, |text: String| value(&text))?,
        })
    };
    Ok(optional(field, choice, decode)?.unwrap_or_default())
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|error| Invalid::new(format!("{text:?}: {error}")))
}

pub(super) fn jwt_rule(rule: wire::JwtRule) -> Result<JwtRule, Invalid> {
    use wire::jwt_rule::Keys;
    let token_header = |header: wire::TokenHeader| {
        Ok(TokenHeader { name: header_name("name", &header.name)?, prefix: header.prefix })
    };
    let claim_to_header = |entry: wire::ClaimToHeader| {
        Ok(ClaimToHeader {
            header: header_name("header", &entry.header)?,
            claim: required("claim", entry.claim, |claim| Ok(claim.path))?,
        })
    };
    Ok(JwtRule {
        issuer: rule.issuer,
        audiences: rule.audiences,
        keys: match rule.keys.ok_or_else(|| unknown("keys"))? {
            Keys::Inline(keys) => JwtKeys::Inline(keys),
            Keys::Remote(uri) => JwtKeys::Remote(uri),
        },
        from_headers: list("fromHeaders", rule.from_headers, token_header)?,
        from_params: rule.from_params,
        from_cookies: rule.from_cookies,
        output_payload_to: rule
            .output_payload_to
            .map(|name| header_name("outputPayloadTo", &name))
            .transpose()?,
        output_claims: list("outputClaims", rule.output_claims, claim_to_header)?,
        forward: rule.forward,
        timeout: required("timeout", rule.timeout, duration)?,
    })
}
