//! Prints `proxy/FLAGS.md`, the page of all flags, from the texts of `pillion_xds::flag`.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    process::ExitCode,
};

use pillion_xds::flag::{Answer, Explanation, Fault, Flag};

const HEAD: &str = "\
# Flags

Every request ends with a flag, mostly `-`. It stands in the access log (`flags`), in the metrics (`response_flags`), in traces, in
what `pillion explain` tells, and, where the proxy itself has made the response, in its header field `x-pillion-error: FLAG; cause`. A
response that the application made never has that field, whatever its status.

The flags are stable. Where Envoy has one for exactly the same cause, it is Envoy's. Where Envoy lumps several causes together,
the plainest keeps Envoy's flag and the others have one of their own; the column \"Envoy\" says what Envoy would call it.
Where no try of a request had a response, the flag is that of the last failure.

| flag | status | gRPC | whose fault | Envoy | meaning |
|---|---|---|---|---|---|
";

fn main() -> ExitCode {
    let page = match page() {
        Ok(page) => page,
        Err(fmt::Error) => return ExitCode::FAILURE,
    };
    match io::stdout().write_all(page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}

fn page() -> Result<String, fmt::Error> {
    let mut flags: Vec<&Explanation> = Flag::ALL.into_iter().map(Flag::explanation).collect();
    flags.sort_by_key(|flag| flag.code);
    let mut page = HEAD.to_owned();
    for Explanation { code, envoy, answer, fault, meaning, .. } in &flags {
        let (status, grpc) = seen(*answer);
        let envoy = envoy.map_or_else(|| "`-`".to_owned(), |envoy| format!("`{envoy}`"));
        writeln!(page, "| `{code}` | {status} | {grpc} | {} | {envoy} | {meaning} |", whose(*fault))?;
    }
    page.push_str(
        "\n\"Broken off\" is no status: the client sees none, or that of a response whose rest never comes.\n",
    );
    for Explanation { code, meaning, cause, advice, .. } in &flags {
        write!(page, "\n## `{code}`\n\n{meaning}\n\n*Mostly because:* {cause}\n\n*What to do:* {advice}\n")?;
    }
    Ok(page)
}

/// The status and the gRPC code that a client sees.
fn seen(answer: Answer) -> (String, &'static str) {
    match answer {
        Answer::Own(statuses, code) => {
            let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
            (statuses.join(", "), code_name(code))
        }
        Answer::Worded => ("the policy's".to_owned(), "the policy's"),
        Answer::Passed => ("the application's".to_owned(), "the application's"),
        Answer::CutOff => ("broken off".to_owned(), "broken off"),
    }
}

fn whose(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => "client",
        Fault::Local => "proxy or policy",
        Fault::Upstream => "destination",
    }
}

/// The name of a gRPC code (`google.rpc.Code`) that the proxy uses.
fn code_name(code: u8) -> &'static str {
    match code {
        4 => "DEADLINE_EXCEEDED",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}
