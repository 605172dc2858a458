use super::*;

fn problems(path: &str, text: &str) -> Problems {
    check(&[Source { path: path.to_owned(), text: text.to_owned() }])
}

#[test]
fn lower_floors_may_be_imported() {
    let text = "use crate::error::ProxyError;\nuse crate::{rt::clock, upstream::{lb, pool::{h1, h2}}};\n";
    assert_eq!(problems("proxy/src/http/exchange.rs", text), Problems::new());
}

#[test]
fn a_higher_floor_may_not_be_imported() {
    let found = problems("proxy/src/upstream/pool/mod.rs", "use crate::http::route::Match;");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`upstream` (floor 5) imports `http` (floor 8)"), "{found:?}");
}

#[test]
fn siblings_on_one_floor_may_not_import_each_other() {
    assert_eq!(problems("proxy/src/http/serve.rs", "use crate::tcp;").len(), 1);
}

#[test]
fn nested_braces_over_several_lines_are_read() {
    let text = "use crate::{\n    rt::{\n        clock, // crate::app\n        view,\n    },\n    view::{View, app},\n};\n";
    let found = problems("proxy/src/tls/accept.rs", text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("imports `view` (floor 6)"), "{found:?}");
}

#[test]
fn paths_in_expressions_count() {
    let text = "fn f() { let x = crate::app::start(); }";
    assert_eq!(problems("proxy/src/error.rs", text).len(), 1);
}

#[test]
fn comments_and_strings_do_not_count() {
    let text = "//! See crate::app.\n/* crate::app::x */\nconst A: &str = \"crate::app::x \\\" crate::app::y\";\nconst B: &str = r#\"crate::app::x\"#;\n";
    assert_eq!(problems("proxy/src/error.rs", text), Problems::new());
}

#[test]
fn a_module_without_a_floor_is_reported_on_both_ends() {
    assert_eq!(problems("proxy/src/helpers.rs", "").len(), 1);
    assert_eq!(problems("proxy/src/http/serve.rs", "use crate::helpers::x;").len(), 1);
}

#[test]
fn super_is_followed_out_of_the_module_only() {
    assert_eq!(problems("proxy/src/http/exchange.rs", "use super::app;"), Problems::new());
    assert_eq!(problems("proxy/src/http/exchange.rs", "use super::super::app;").len(), 1);
    assert_eq!(problems("proxy/src/error.rs", "use super::app::X;").len(), 1);
    assert_eq!(problems("proxy/src/error.rs", "pub(super) fn f() {}"), Problems::new());
}

#[test]
fn test_files_other_crates_and_roots_are_not_bound() {
    for path in
        ["proxy/src/error/tests.rs", "control-plane/src/error.rs", "proxy/src/lib.rs", "proxy/src/main.rs"]
    {
        assert_eq!(problems(path, "use crate::app::X;"), Problems::new(), "{path}");
    }
}

#[test]
fn tests_inside_a_file_are_not_bound() {
    let text =
        "use crate::rt::clock;\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::app;\n}\n";
    assert_eq!(problems("proxy/src/error.rs", text), Problems::new());
}

#[test]
fn foreign_paths_that_contain_the_word_crate_are_ignored() {
    assert_eq!(problems("proxy/src/error.rs", "use other::crate_::app; mycrate::app::x();"), Problems::new());
}
