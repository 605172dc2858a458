//! Writes `src/generated/` from `proto/`; with `--check` only says whether it is up to date.
//!
//! Everything is Rust: protox parses, prost and tonic generate, prettyplease formats. The output depends on nothing but
//! the `.proto` files and the locked versions of those crates, so a difference means someone forgot to run this.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

type Failure = Box<dyn std::error::Error>;
type Files = BTreeMap<OsString, Vec<u8>>;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let check = match (args.next().as_deref(), args.next()) {
        (None, _) => false,
        (Some("--check"), None) => true,
        _ => return say("usage: codegen [--check]"),
    };
    match run(check) {
        Ok(stale) if stale.is_empty() => ExitCode::SUCCESS,
        Ok(stale) => say(&format!("stale: {}; run `cargo xtask codegen`", stale.join(", "))),
        Err(error) => say(&error.to_string()),
    }
}

fn say(problem: &str) -> ExitCode {
    // Standard error may be closed; the exit code says it too.
    let _unwritable = writeln!(io::stderr(), "codegen: {problem}");
    ExitCode::FAILURE
}

/// Brings the tree up to date, or returns the names of the files that are not.
fn run(check: bool) -> Result<Vec<String>, Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("src/generated");
    let fresh = generate(&root.join("proto"))?;
    let present = read(&target)?;
    if check {
        let names = fresh.keys().chain(present.keys()).filter(|name| fresh.get(*name) != present.get(*name));
        let mut stale: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        stale.dedup();
        return Ok(stale);
    }
    for name in present.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(target.join(name))?;
    }
    for (name, text) in fresh.iter().filter(|(name, text)| present.get(*name) != Some(*text)) {
        fs::write(target.join(name), text)?;
    }
    Ok(Vec::new())
}

fn generate(proto: &Path) -> Result<Files, Failure> {
    let out = Scratch::new()?;
    let files = ["ca.proto", "discovery.proto", "observe.proto", "policy.proto", "report.proto"];
    let descriptors = protox::compile(files, [proto])?;
    tonic_prost_build::configure()
        .out_dir(&out.0)
        .btree_map(".")
        .bytes(".google.protobuf.Any")
        .bytes(".pillion.v1")
        .compile_well_known_types(true)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(read(&out.0)?)
}

fn read(dir: &Path) -> io::Result<Files> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), fs::read(entry.path())?))
        })
        .collect()
}

/// A directory that goes when the program ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("pillion-codegen-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nobody.
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}
