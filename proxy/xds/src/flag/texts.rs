//! What there is to say about each flag, in the order of their numbers.
//!
//! The texts are for whoever looks after services, not after Pillion: what has happened, why it mostly does, and what to
//! do about it. Markdown goes no further than code in backticks, so that a terminal can show them as they are.

use super::{
    Answer::{self, CutOff, Own, Passed, Worded},
    Explanation,
    Fault::{self, Client, Local, Upstream},
    Flag,
};

/// Explains one: its code and what Envoy calls it, what the client sees, whose fault it is, and meaning, cause and advice.
const fn flag(
    (flag, code, envoy): (Flag, &'static str, Option<&'static str>),
    answer: Answer,
    fault: Fault,
    [meaning, cause, advice]: [&'static str; 3],
) -> Explanation {
    Explanation { flag, code, envoy, answer, fault, meaning, cause, advice }
}

/// All flags; the index of each is its number.
pub(super) static TEXTS: [Explanation; Flag::ALL.len()] = [
    flag(
        (Flag::None, "-", None),
        Passed,
        Local,
        [
            "There is nothing to remark: the application has answered.",
            "This is how requests end when nothing is wrong with the mesh, also those that the application \
         answers with an error.",
            "If the status is an error, look at the application: no proxy has made it.",
        ],
    ),
    flag(
        (Flag::Nr, "NR", Some("NR")),
        Own(&[404], 12),
        Local,
        [
            "The host is known, but no rule of it matches the request.",
            "The rules of a VirtualService or an HTTPRoute match certain paths, methods or headers, and \
         there is none for the rest.",
            "Add a rule without a `match` at the end, or correct the path. `/config_dump` shows the rules in \
         force.",
        ],
    ),
    flag(
        (Flag::Nc, "NC", Some("NC")),
        Own(&[503], 14),
        Local,
        [
            "A rule leads to a service or subset that does not exist.",
            "The subset is not in the DestinationRule, its name is misspelt, or the service was removed.",
            "`x-pillion-error` names what is missing. `pillion validate` finds it before it is in force.",
        ],
    ),
    flag(
        (Flag::Uh, "UH", Some("UH")),
        Own(&[503], 14),
        Upstream,
        [
            "The destination has no endpoint that may be used.",
            "No pod is ready, no pod has the labels of the subset, or all of them are ejected.",
            "`/endpoints` shows what is known of each. Look at the readiness of the pods and at the labels \
         of the subset.",
        ],
    ),
    flag(
        (Flag::Uf, "UF", Some("UF")),
        Own(&[503], 14),
        Upstream,
        [
            "No connection to the endpoint could be made: it was refused.",
            "The application is not up yet, has died, or listens on another port than its Service says.",
            "See whether the process runs, and whether `targetPort` is the port it listens on.",
        ],
    ),
    flag(
        (Flag::Uc, "UC", Some("UC")),
        Own(&[503], 14),
        Upstream,
        [
            "The endpoint closed the connection before it answered.",
            "The application crashed, was stopped without finishing what it had begun, or closes idle \
         connections sooner than the mesh does.",
            "Look into the log of the application at that time. If it is an idle limit, make `idleTimeout` \
         of the connection pool shorter than that.",
        ],
    ),
    flag(
        (Flag::Ur, "UR", Some("UR")),
        Own(&[503], 14),
        Upstream,
        [
            "The endpoint reset the request before it answered.",
            "The application refuses the stream, or its HTTP/2 library has given it up.",
            "`x-pillion-error` names the code of the reset. Look into the log of the application.",
        ],
    ),
    flag(
        (Flag::Uo, "UO", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "As many requests to the destination are under way as `http2MaxRequests` allows.",
            "The destination is slow, or more is asked of it than the limit was made for.",
            "See how long its requests take. Raise the limit only if the destination can take more.",
        ],
    ),
    flag(
        (Flag::Ut, "UT", Some("UT")),
        Own(&[504], 4),
        Upstream,
        [
            "The total time of the route ran out before the response was complete. After its head it is cut \
         off.",
            "The destination is slower than `timeout` allows, all tries and waits taken together.",
            "The tries in log and trace show where the time went. Make the destination faster, or the \
         timeout longer.",
        ],
    ),
    flag(
        (Flag::Upe, "UPE", Some("UPE")),
        Own(&[502], 14),
        Upstream,
        [
            "What the endpoint sent is not a valid response.",
            "The port speaks another protocol, or another version of HTTP, than its Service says.",
            "Correct `appProtocol` or the name of the port; else the application breaks HTTP as \
         `x-pillion-error` says.",
        ],
    ),
    flag(
        (Flag::Dc, "DC", Some("DC")),
        CutOff,
        Client,
        [
            "The client went away, or broke its request off, before the response was complete.",
            "The client has a timeout of its own that is shorter, or its user has left.",
            "Nothing, as long as they are few. If they take equally long, the client's timeout is the cause.",
        ],
    ),
    flag(
        (Flag::Dpe, "DPE", Some("DPE")),
        Own(&[400], 13),
        Client,
        [
            "The request is not valid HTTP, or is so ambiguous that two servers might read it differently.",
            "The client does not speak HTTP to this port, or sends a bad `Host`, or both `Content-Length` \
         and `Transfer-Encoding`.",
            "`x-pillion-error` says what is wrong with it. Correct the client.",
        ],
    ),
    flag(
        (Flag::Dsc, "DSC", Some("NC")),
        Own(&[502], 14),
        Local,
        [
            "The host was not known yet, and the control plane did not describe it within `--hold-timeout`.",
            "The control plane is not reachable, or overloaded.",
            "`pillion_xds_connected` says whether the proxy is connected. Hosts that were in use before go \
         on working.",
        ],
    ),
    flag(
        (Flag::Drn, "DRN", None),
        CutOff,
        Local,
        [
            "The proxy was told to stop, and the request had not ended by the end of the drain.",
            "The request takes longer than `--drain-timeout`, as long polls and streams do.",
            "Give the drain more time, and the pod a longer `terminationGracePeriodSeconds`.",
        ],
    ),
    flag(
        (Flag::Urx, "URX", Some("URX")),
        Passed,
        Upstream,
        [
            "The request has failed as often as the policy lets it be sent. The last response is passed on.",
            "The destination is really broken, and not just now and then.",
            "Look at the destination, not at the policy: more repetitions would make it worse.",
        ],
    ),
    flag(
        (Flag::Bud, "BUD", Some("UO")),
        Passed,
        Upstream,
        [
            "The response is a failure, and the retry budget allows no repetition. It is passed on.",
            "So much is failing that repeating all of it would overload the destination.",
            "Look at the destination. `retry.budget` or `retryBudget` is the limit.",
        ],
    ),
    flag(
        (Flag::Brk, "BRK", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "The circuit breaker before the destination is open: nothing is sent there for a while.",
            "The destination has failed as often, in a row or as a share, as the policy names.",
            "`/breakers` says why it opened, `Retry-After` for how long. It closes by itself when the \
         destination answers again.",
        ],
    ),
    flag(
        (Flag::Rl, "RL", Some("RL")),
        Own(&[429], 8),
        Local,
        [
            "A rate limit has refused the request.",
            "This caller sends more than the policy gives it.",
            "`Retry-After` says when the next request is let through. `x-pillion-error` names the policy.",
        ],
    ),
    flag(
        (Flag::Di, "DI", Some("DI")),
        Passed,
        Local,
        [
            "The policy made the request wait.",
            "Somebody tests how callers take delays: `fault.delay`.",
            "Nothing is broken. Take the fault out of the policy when the test is over.",
        ],
    ),
    flag(
        (Flag::Fi, "FI", Some("FI")),
        Worded,
        Local,
        [
            "The policy answered in place of the application.",
            "Somebody tests how callers take failures: `fault.abort`.",
            "Nothing is broken. Take the fault out of the policy when the test is over.",
        ],
    ),
    flag(
        (Flag::Tls, "TLS", Some("UF")),
        Own(&[503], 14),
        Upstream,
        [
            "The connection to the endpoint could not be secured.",
            "One side does not believe the other, a certificate has ended, or there is no sidecar where \
         discovery says there is one.",
            "`x-pillion-error` has the reason, `/certs` what this proxy shows and believes. Plain text is \
         never sent instead.",
        ],
    ),
    flag(
        (Flag::Authz, "AUTHZ", None),
        Own(&[403], 7),
        Client,
        [
            "An AuthorizationPolicy of the called workload denies the request, or none allows it.",
            "The caller has another identity than the policy expects, or asks for another path or method.",
            "The log of the called side names the policy as its `cause`; the caller is not told.",
        ],
    ),
    flag(
        (Flag::Jwt, "JWT", None),
        Own(&[401], 16),
        Client,
        [
            "A token of the request is not accepted.",
            "It has expired, is for another audience, or is signed by somebody who is not trusted here.",
            "`x-pillion-error` says why. If the keys are not available, see whether `jwksUri` can be \
         reached.",
        ],
    ),
    flag(
        (Flag::Nh, "NH", Some("NR")),
        Own(&[404], 12),
        Client,
        [
            "Nothing describes the host that the request names.",
            "The name is misspelt, is in another namespace, or nobody has made a Service or ServiceEntry of \
         it.",
            "`x-pillion-error` names the host as it was looked up. A service of another namespace is \
         `NAME.NAMESPACE`.",
        ],
    ),
    flag(
        (Flag::Uct, "UCT", Some("UF")),
        Own(&[503], 14),
        Upstream,
        [
            "No connection to the endpoint was made within `connectTimeout`.",
            "The machine is gone, a firewall or network policy drops packets, or the application does not \
         accept connections.",
            "See whether the address can be reached from the pod. Connections that are slow by nature need a \
         longer `connectTimeout`.",
        ],
    ),
    flag(
        (Flag::Ubo, "UBO", Some("UC")),
        CutOff,
        Upstream,
        [
            "The response broke off after its head: the client has got only part of it.",
            "The application crashed or gave up in the middle of an answer.",
            "Look into the log of the application. No proxy can repeat what is half delivered.",
        ],
    ),
    flag(
        (Flag::Upt, "UPT", Some("UT")),
        Own(&[504], 4),
        Upstream,
        [
            "The last try had no response within `perTryTimeout`, and there was no other.",
            "The endpoint is slower than the time of a single try, or hangs.",
            "The tries in log and trace show each endpoint. If only one hangs, outlier detection leaves it \
         alone.",
        ],
    ),
    flag(
        (Flag::Uhl, "UHL", Some("UPE")),
        Own(&[502], 14),
        Upstream,
        [
            "The head of the response is over `--max-header-bytes` or `--max-headers`.",
            "The application sets very large cookies or tokens, or ever more of them.",
            "Make them smaller, or raise the limits on both sidecars.",
        ],
    ),
    flag(
        (Flag::Uop, "UOP", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "As many requests wait for a connection to the destination as `http1MaxPendingRequests` allows.",
            "All connections are busy with slow requests, or new ones take long to make.",
            "See how long its requests take. HTTP/2 needs fewer connections; `maxConnections` may be too \
         small.",
        ],
    ),
    flag(
        (Flag::Uoc, "UOC", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "As many connections to the destination are open as `maxConnections` allows, and none was given \
         up in time.",
            "Long requests or upgrades, such as WebSockets, hold all connections.",
            "Raise `maxConnections`, or speak HTTP/2 to the destination.",
        ],
    ),
    flag(
        (Flag::Bhf, "BHF", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "The bulkhead before the destination is full: as many run and wait as `maxConcurrent` and \
         `maxPending` allow.",
            "The destination is slow, or a burst came.",
            "This protects the caller. Raise the limits only if the destination can take more; a `fallback` \
         can answer instead.",
        ],
    ),
    flag(
        (Flag::Bhq, "BHQ", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "The request waited in the bulkhead for `queueTimeout` and was not let in.",
            "The requests before it take too long.",
            "See how long they take: waiting longer rarely helps the caller.",
        ],
    ),
    flag(
        (Flag::Dso, "DSO", Some("UO")),
        Own(&[503], 14),
        Local,
        [
            "Too many requests wait for hosts that the proxy does not know yet.",
            "The control plane does not answer while many requests to new hosts arrive.",
            "The same as for `DSC`: see whether the control plane is reachable.",
        ],
    ),
    flag(
        (Flag::Dhl, "DHL", Some("DPE")),
        Own(&[431], 8),
        Client,
        [
            "The head of the request is over `--max-header-bytes` or `--max-headers`.",
            "The client sends very large cookies or tokens, or ever more of them.",
            "Make them smaller, or raise the limits on both sidecars.",
        ],
    ),
    flag(
        (Flag::Dbl, "DBL", None),
        Own(&[413], 8),
        Client,
        [
            "The body of the request is over `--max-body-bytes`.",
            "An upload is larger than the operator lets in.",
            "Send less, or raise the limit on both sidecars.",
        ],
    ),
    flag(
        (Flag::Conn, "CONN", Some("NR")),
        Own(&[405], 12),
        Client,
        [
            "The request is a CONNECT, which is not routed.",
            "The client takes the sidecar for a proxy of `https` and wants a tunnel.",
            "Have the client call `http://HOST`: the sidecar secures it. Leave `https_proxy` unset.",
        ],
    ),
    flag(
        (Flag::Si, "SI", Some("SI")),
        Own(&[408, 504], 4),
        Upstream,
        [
            "Not a byte has moved in either direction for `--stream-idle-timeout`: 408 while the request was \
         incomplete, else 504.",
            "The application hangs, or a stream is silent for long by design.",
            "Have such streams send something now and then, or raise the limit.",
        ],
    ),
    flag(
        (Flag::Det, "DET", None),
        Own(&[408], 4),
        Client,
        [
            "A client began its first request and did not send the whole head within \
         `--first-request-timeout`.",
            "The client hangs, is very slow on purpose, or does not speak HTTP.",
            "Look at the client; the log names its address. Connections on which nothing is said are closed \
         without a word.",
        ],
    ),
    flag(
        (Flag::Tlsid, "TLSID", Some("UF")),
        Own(&[503], 14),
        Upstream,
        [
            "The endpoint has a valid certificate, but is not who discovery says it must be.",
            "The address was given to another pod and discovery lags behind, or somebody pretends to be the \
         service.",
            "If it lasts longer than seconds, see which pod has that address now, and which service account \
         it runs as.",
        ],
    ),
    flag(
        (Flag::Tlsown, "TLSOWN", Some("UF")),
        Own(&[503], 14),
        Local,
        [
            "This proxy has no valid certificate, or TLS settings that cannot be used, and so makes no \
         connection.",
            "The control plane has not signed one yet, or could not be reached until the last one ended.",
            "`/certs` shows its state and why the last renewal failed.",
        ],
    ),
];
