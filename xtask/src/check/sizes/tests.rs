use super::*;

fn file(path: &str, n_lines: usize) -> Source {
    Source { path: path.to_owned(), text: "x\n".repeat(n_lines) }
}

#[test]
fn a_file_at_the_ceiling_passes_and_one_above_fails() {
    assert_eq!(check(&[file("proxy/src/a.rs", FILE)]), Problems::new());
    assert_eq!(check(&[file("proxy/src/a.rs", FILE + 1)]).len(), 1);
}

#[test]
fn tests_and_generated_files_are_free() {
    let free = [
        file("proxy/src/http/tests.rs", 900),
        file("tests/tests/routing.rs", 900),
        file("proxy/xds/src/generated/pillion.rs", 9_000),
    ];
    assert_eq!(check(&free), Problems::new());
}

#[test]
fn a_crate_has_a_ceiling_of_its_own() {
    let many = |prefix: &str, n: usize| {
        (0..n).map(|i| file(&format!("{prefix}src/{i}.rs"), 400)).collect::<Vec<_>>()
    };
    assert_eq!(check(&many("proxy/policy/", 15)), Problems::new());
    assert_eq!(
        check(&many("proxy/policy/", 16)),
        ["proxy/policy/ has 6400 lines, more than its ceiling of 6000"]
    );
    assert_eq!(check(&many("proxy/", 14)), Problems::new(), "the nested crate's ceiling is not the proxy's");
}

#[test]
fn the_lock_file_and_the_architecture_have_ceilings() {
    let lock = Source {
        path: "Cargo.lock".to_owned(),
        text: "[[package]]\nname = \"x\"\n".repeat(LOCKED_PACKAGES + 1),
    };
    assert_eq!(check(&[lock]).len(), 1);
    assert_eq!(check(&[file("proxy/ARCHITECTURE.md", ARCHITECTURE + 1)]).len(), 1);
}
