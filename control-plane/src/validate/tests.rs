use pillion_policy::name::Hostname;

use super::*;
use crate::{naming::Naming, source::files::Files};

pub(super) const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: web}]}\n";
pub(super) const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a-1, labels: {app: a}}\nspec: {containers: [{ports: [{name: web, containerPort: 8080}]}]}\nstatus: {podIP: 10.0.0.1}\n";

fn route(name: &str, host: &str, destination: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [{host}], http: [{{route: [{{destination: {destination}}}]}}]}}\n"
    )
}

pub(super) fn rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// What is said about the objects, as `severity path: reason`.
pub(super) fn remarks(parts: &[&str]) -> Vec<String> {
    let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
    let mut files = Files::new(naming.clone());
    files.put("x.yaml", parts.concat());
    let mut index = Index::new(naming);
    let update = files.update().unwrap();
    assert!(update.problems.is_empty(), "{:?}", update.problems);
    update.events.into_iter().for_each(|event| index.apply(event));
    let mut problems = check(&index);
    crate::problem::sort(&mut problems);
    problems
        .iter()
        .map(|problem| format!("{} {}: {}", problem.severity, problem.path, problem.reason))
        .collect()
}

#[test]
fn what_fits_together_is_passed_over() {
    let rule = rule("a", "host: a, subsets: [{name: v1, labels: {version: v1}}]");
    assert!(remarks(&[SERVICE, POD, &route("a", "a", "{host: a, subset: v1}"), &rule]).is_empty());
}

#[test]
fn destinations_that_lead_nowhere_are_errors() {
    for (destination, remark) in [
        ("{host: b.default}", "error spec.http[0].route[0].destination.host: there is no Service b.default"),
        ("{host: b}", "error spec.http[0].route[0].destination.host: there is no Service b.default"),
        ("{host: a, port: {number: 81}}", "error spec.http[0].route[0].destination.port: Service a.default"),
        (
            "{host: a, subset: v9}",
            "error spec.http[0].route[0].destination.subset: no DestinationRule defines subset v9",
        ),
    ] {
        let found = remarks(&[SERVICE, POD, &route("r", "'*'", destination)]);
        assert!(found.len() == 1 && found[0].starts_with(remark), "{destination}: {found:?}");
    }
}

#[test]
fn rules_alone_are_compared_with_each_other() {
    let alone = route("a", "a", "{host: a, subset: v1}");
    let found = remarks(&[&alone]);
    assert!(
        found[0].starts_with("warning spec.http[0].route[0].destination.host: there is no Service"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("error spec.http[0].route[0].destination.subset: no DestinationRule"),
        "{found:?}"
    );
    assert_eq!(remarks(&[&alone, &rule("a", "host: a, subsets: [{name: v1, labels: {v: '1'}}]")]).len(), 1);
}

#[test]
fn two_rules_for_one_host_are_told_who_wins() {
    let found = remarks(&[SERVICE, POD, &route("b", "a", "{host: a}"), &route("a", "a", "{host: a}")]);
    assert_eq!(
        found,
        [
            "error spec.hosts[0]: a.default.svc.cluster.local already has VirtualService default/a (x.yaml:18), the older \
          one wins: these rules are not used for it"
        ]
    );
    let policy = "host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let found = remarks(&[SERVICE, POD, &rule("a", policy), &rule("b", policy)]);
    assert!(
        found[0].starts_with("warning spec.trafficPolicy: not used: DestinationRule default/a"),
        "{found:?}"
    );
}

#[test]
fn a_host_is_one_host_by_whatever_name() {
    let exported = |text: String, to: &str| text.replace("spec: {", &format!("spec: {{exportTo: [{to}], "));
    let first = route("x", "a", "{host: a}");
    let other = route("y", "a.default", "{host: a}");
    let found = remarks(&[SERVICE, POD, &first, &other]);
    assert!(
        found[0].starts_with("error spec.hosts[0]: a.default already has VirtualService default/x"),
        "{found:?}"
    );
    let twice = route("x", "a, a.default", "{host: a}");
    assert_eq!(
        remarks(&[SERVICE, POD, &twice]),
        ["error spec.hosts[1]: a.default stands here twice, under several of its names"]
    );
    // Rules that no client sees both of do not contradict each other.
    let apart = [exported(first.clone(), "one"), exported(other.clone(), "two")];
    assert!(remarks(&[SERVICE, POD, &apart[0], &apart[1]]).is_empty());
    assert_eq!(remarks(&[SERVICE, POD, &apart[0], &other]).len(), 1);
}

#[test]
fn a_host_of_the_cluster_needs_a_service() {
    assert_eq!(
        remarks(&[SERVICE, POD, &route("x", "b", "{host: a}")]),
        ["warning spec.hosts[0]: there is no Service b.default.svc.cluster.local"]
    );
    assert!(remarks(&[SERVICE, POD, &route("x", "b.example.com", "{host: a}")]).is_empty());
}

#[test]
fn services_without_endpoints_are_named() {
    assert!(remarks(&[SERVICE])[0].starts_with("warning spec.selector: it selects no Pod"));
    let nameless = POD.replace("name: web, ", "");
    assert_eq!(
        remarks(&[SERVICE, &nameless]),
        ["warning spec.ports[0].targetPort: no Pod the service selects has a container port called \"web\""]
    );
    assert_eq!(
        remarks(&[SERVICE, POD, &rule("b", "host: b, subsets: [{name: v1, labels: {v: '1'}}]")]),
        ["warning spec.host: there is no Service b.default.svc.cluster.local"]
    );
}
