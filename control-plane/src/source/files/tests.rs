use pillion_policy::name::Hostname;

use super::*;

fn files() -> Files {
    Files::new(Naming::new(&Hostname::new("cluster.local").unwrap()))
}

fn service(name: &str, port: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports: [{{port: {port}}}]\n")
}

/// The events as text: `+name` for an object that is new or different, `-name` for one that is gone.
fn step(files: &mut Files) -> (Vec<String>, Vec<String>) {
    let update = files.update().unwrap_or_default();
    let events = update.events.iter().map(|event| match event {
        Event::Apply(stored) => format!("+{}", stored.key.name),
        Event::Delete(key) => format!("-{}", key.name),
    });
    (events.collect(), update.problems.iter().map(ToString::to_string).collect())
}

#[test]
fn objects_come_change_and_go_with_their_files() {
    let mut files = files();
    files.put("a.yaml", service("one", "80"));
    files.put("b.yaml", service("two", "80"));
    assert_eq!(step(&mut files).0, ["+one", "+two"]);
    assert_eq!(step(&mut files).0, Vec::<String>::new());
    files.put("a.yaml", service("one", "81"));
    files.remove("b.yaml");
    assert_eq!(step(&mut files).0, ["-two", "+one"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_content() {
    let mut files = files();
    files.put("a.yaml", service("one", "80"));
    step(&mut files);
    files.put("a.yaml", "a: [1\n");
    let (events, problems) = step(&mut files);
    assert!(events.is_empty());
    assert!(problems[0].starts_with("a.yaml:2: error: not valid YAML"), "{problems:?}");
    files.put("a.yaml", "");
    assert_eq!(step(&mut files), (vec!["-one".to_owned()], vec![]));
}

#[test]
fn a_file_that_is_not_text_keeps_its_last_good_content() {
    let mut files = files();
    files.put("a.yaml", service("one", "80"));
    step(&mut files);
    files.put("a.yaml", b"a: b\nc: \xff\n");
    let (events, problems) = step(&mut files);
    assert!(events.is_empty());
    assert_eq!(problems, ["a.yaml:2: error: not valid YAML: not UTF-8 text"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version_and_the_rest_applies() {
    let mut files = files();
    files.put("a.yaml", [service("one", "80"), service("two", "80")].join("---\n"));
    step(&mut files);
    files.put("a.yaml", [service("one", "0"), service("two", "81")].join("---\n"));
    let (events, problems) = step(&mut files);
    assert_eq!(events, ["+two"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("Service default/one spec.ports[0].port"), "{problems:?}");
}

#[test]
fn an_object_that_lost_its_name_removes_nothing() {
    let mut files = files();
    files.put("a.yaml", service("one", "80"));
    step(&mut files);
    files.put("a.yaml", service("one", "80").replace("name:", "nmae:"));
    let (events, problems) = step(&mut files);
    assert!(events.is_empty(), "{events:?}");
    assert!(problems.iter().any(|problem| problem.contains("did you mean \"name\"")), "{problems:?}");
}

#[test]
fn an_object_of_a_kind_nobody_reads_holds_nothing_back() {
    for kind in ["networking.istio.io/v1\nkind: Gateway", "example.com/v1\nkind: Widget"] {
        let mut files = files();
        let other = format!("---\napiVersion: {kind}\nmetadata: {{name: x}}\n");
        files.put("a.yaml", service("one", "80") + &other);
        assert_eq!(step(&mut files).0, ["+one"]);
        files.put("a.yaml", other);
        assert_eq!(step(&mut files).0, ["-one"], "{kind}");
    }
}

#[test]
fn the_first_file_wins_and_the_other_is_reported() {
    let mut files = files();
    files.put("b.yaml", service("one", "81"));
    step(&mut files);
    files.put("a.yaml", service("one", "80"));
    let (events, problems) = step(&mut files);
    assert_eq!(events, ["+one"]);
    assert!(
        problems[0].starts_with("b.yaml:1: error: Service default/one not used: a.yaml:1"),
        "{problems:?}"
    );
    files.remove("a.yaml");
    assert_eq!(step(&mut files), (vec!["+one".to_owned()], vec![]));
}

#[test]
fn what_is_not_for_the_mesh_is_said_and_passed_over() {
    let mut files = files();
    files.put("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n");
    let (events, problems) = step(&mut files);
    assert!(events.is_empty());
    assert_eq!(problems, ["a.yaml:1: info: ConfigMap default/x ignored: not read by the mesh"]);
}
