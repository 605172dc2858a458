//! Every kind of match of a VirtualService, in the order the rules are written.

use anyhow::{Result, ensure};
use http::Method;
use pillion_tests::{Client, Mesh, Sidecar, address, eventually};

/// A mesh whose host `app` answers each request with the name of the rule that matched.
async fn mesh(rules: &[(&str, &str)]) -> Result<(Mesh, Sidecar, Client)> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("app")?;
    let rules: String = rules
        .iter()
        .map(|(name, matches)| {
            format!("- match: {matches}\n  directResponse: {{status: 200, body: {{string: {name}}}}}\n")
        })
        .collect();
    mesh.policy.routes("app", &rules)?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client))
}

/// The rule that answers; `none` if no rule did.
async fn rule(call: pillion_tests::client::Call) -> Result<String> {
    let reply = call.send().await?;
    if reply.status == 404 {
        return reply.expect_own(404, "NR").map(|_| "none".to_owned());
    }
    Ok(reply.expect(200)?.text())
}

async fn check(client: &Client, cases: &[(&str, &str)]) -> Result<()> {
    for (target, expected) in cases {
        let found = rule(client.get(&format!("http://app{target}"))).await?;
        ensure!(found == *expected, "{target}: rule {expected} wanted, got {found}");
    }
    Ok(())
}

async fn check_headers(client: &Client, cases: &[(&[(&str, &str)], &str)]) -> Result<()> {
    for (headers, expected) in cases {
        let call =
            headers.iter().fold(client.get("http://app/"), |call, (name, value)| call.header(name, value));
        let found = rule(call).await?;
        ensure!(found == *expected, "{headers:?}: rule {expected} wanted, got {found}");
    }
    Ok(())
}

#[tokio::test]
async fn paths() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("exact", "[{uri: {exact: /exact}}]"),
        ("prefix", "[{uri: {prefix: /pre}}]"),
        ("regex", "[{uri: {regex: '/items/[0-9]+'}}]"),
        ("exact-any-case", "[{uri: {exact: /Any}, ignoreUriCase: true}]"),
        ("prefix-any-case", "[{uri: {prefix: /Start}, ignoreUriCase: true}]"),
    ])
    .await?;
    check(
        &client,
        &[
            ("/exact", "exact"),
            ("/exact?query=1", "exact"),
            ("/exact/", "none"),
            ("/Exact", "none"),
            ("/pre", "prefix"),
            ("/pre/fix", "prefix"),
            ("/prefix", "prefix"),
            ("/p", "none"),
            ("/items/42", "regex"),
            ("/items/42?x=y", "regex"),
            ("/items/42/more", "none"),
            ("/x/items/42", "none"),
            ("/aNY", "exact-any-case"),
            ("/sTART/here", "prefix-any-case"),
        ],
    )
    .await
}

#[tokio::test]
async fn headers() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("exact", "[{headers: {x-kind: {exact: gold}}}]"),
        ("prefix", "[{headers: {x-kind: {prefix: sil}}}]"),
        ("regex", "[{headers: {x-kind: {regex: 'bron[sz]e'}}}]"),
        ("present", "[{headers: {x-there: {}}}]"),
        ("both", "[{headers: {x-a: {exact: '1'}, x-b: {exact: '2'}}}]"),
        ("joined", "[{headers: {x-list: {exact: 'a,b'}}}]"),
        ("without", "[{headers: {x-base: {exact: 'y'}}, withoutHeaders: {x-not: {exact: bad}}}]"),
    ])
    .await?;
    check_headers(
        &client,
        &[
            (&[("x-kind", "gold")], "exact"),
            (&[("X-KIND", "gold")], "exact"),
            (&[("x-kind", "Gold")], "none"),
            (&[("x-kind", "silver")], "prefix"),
            (&[("x-kind", "bronze")], "regex"),
            (&[("x-kind", "a bronze b")], "none"),
            (&[("x-there", "")], "present"),
            (&[("x-there", "anything")], "present"),
            (&[("x-a", "1"), ("x-b", "2")], "both"),
            (&[("x-a", "1")], "none"),
            (&[("x-list", "a"), ("x-list", "b")], "joined"),
            (&[("x-list", "a")], "none"),
            (&[("x-base", "y")], "without"),
            (&[("x-base", "y"), ("x-not", "good")], "without"),
            (&[("x-base", "y"), ("x-not", "bad")], "none"),
        ],
    )
    .await
}

#[tokio::test]
async fn query_parameters() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("exact", "[{queryParams: {v: {exact: '2'}}}]"),
        ("empty", "[{queryParams: {debug: {exact: ''}}}]"),
        ("prefix", "[{queryParams: {lang: {prefix: en}}}]"),
        ("regex", "[{queryParams: {id: {regex: '[0-9]+'}}}]"),
    ])
    .await?;
    check(
        &client,
        &[
            ("/?v=2", "exact"),
            ("/?a=b&v=2&c", "exact"),
            ("/?v=22", "none"),
            ("/?V=2", "none"),
            ("/?debug", "empty"),
            ("/?debug=", "empty"),
            ("/?debug=x", "none"),
            ("/?lang=en-GB", "prefix"),
            ("/?id=77", "regex"),
            ("/?id=7x", "none"),
            ("/", "none"),
        ],
    )
    .await
}

#[tokio::test]
async fn methods_authorities_and_schemes() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("put", "[{method: {exact: PUT}}]"),
        ("p", "[{method: {prefix: P}}]"),
        ("https", "[{scheme: {exact: https}}]"),
        ("authority", "[{authority: {exact: app}, uri: {prefix: /a}}]"),
        ("http", "[{scheme: {exact: http}, uri: {prefix: /http}}]"),
    ])
    .await?;
    for (method, path, expected) in [
        (Method::PUT, "/", "put"),
        (Method::POST, "/", "p"),
        (Method::GET, "/", "none"),
        (Method::GET, "/a", "authority"),
        (Method::GET, "/http", "http"),
    ] {
        let found = rule(client.request(method.clone(), &format!("http://app{path}"))).await?;
        ensure!(found == expected, "{method} {path}: rule {expected} wanted, got {found}");
    }
    Ok(())
}

#[tokio::test]
async fn the_first_of_the_rules_that_match_wins() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("all-of", "[{uri: {prefix: /x}, headers: {k: {exact: v}}, queryParams: {q: {exact: '1'}}}]"),
        ("any-of", "[{uri: {exact: /one}}, {uri: {exact: /two}}]"),
        ("long", "[{uri: {prefix: /x/long}}]"),
        ("short", "[{uri: {prefix: /x}}]"),
        ("dead", "[{uri: {exact: /x/dead}}]"),
    ])
    .await?;
    check(
        &client,
        &[("/one", "any-of"), ("/two", "any-of"), ("/x/long", "long"), ("/x", "short"), ("/x/dead", "short")],
    )
    .await?;
    assert_eq!(rule(client.get("http://app/x?q=1").header("k", "v")).await?, "all-of");
    assert_eq!(rule(client.get("http://app/x?q=2").header("k", "v")).await?, "short");
    Ok(())
}

#[tokio::test]
async fn ports_and_sources_decide_which_rules_a_sidecar_has() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[
        ("other-port", "[{port: 9999}]"),
        ("other-namespace", "[{sourceNamespace: elsewhere}]"),
        ("other-labels", "[{sourceLabels: {app: nobody}}]"),
        ("gateway", "[{gateways: [ingress]}]"),
        ("mine", "[{port: 80, sourceNamespace: default}]"),
    ])
    .await?;
    check(&client, &[("/", "mine")]).await
}

#[tokio::test]
async fn labels_of_a_client_s_pod_decide_which_rules_it_has() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("app")?;
    mesh.policy.routes(
        "app",
        "- {match: [{sourceLabels: {version: canary}}], directResponse: {status: 200, body: {string: canary}}}
- {match: [{sourceLabels: {app: teller, version: v1}}], directResponse: {status: 200, body: {string: teller}}}
- {directResponse: {status: 200, body: {string: others}}}",
    )?;
    let clients = [("taster", "canary", "canary"), ("teller", "v1", "teller"), ("teller-2", "v2", "others")];
    let mut addresses = Vec::new();
    for (workload, version, _) in clients {
        let ip = address::unused()?;
        mesh.policy.pod(&format!("{workload}-1"), workload, version, ip)?;
        addresses.push(ip);
    }
    mesh.start().await?;
    let mut sidecars = Vec::new();
    for ((workload, _, expected), ip) in clients.into_iter().zip(addresses) {
        let sidecar = mesh.sidecar(workload)?.ip(ip).start().await?;
        let found = rule_of(&sidecar.app(), "app").await?;
        ensure!(found == expected, "{workload}: {expected} wanted, got {found}");
        sidecars.push(sidecar);
    }
    // Other labels, other rules.
    mesh.policy.pod("teller-2-1", "teller-2", "canary", sidecars[2].admin.ip())?;
    eventually("the labels have changed", || async {
        let found = rule_of(&sidecars[2].app(), "app").await?;
        ensure!(found == "canary", "{found}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn all_names_of_a_service_reach_its_rules() -> Result<()> {
    let (_mesh, _sidecar, client) = mesh(&[("app", "[{uri: {prefix: /}}]")]).await?;
    for host in
        ["app", "app:80", "app.default", "app.default.svc", "app.default.svc.cluster.local", "APP.default"]
    {
        let found = rule(client.get(&format!("http://{host}/"))).await?;
        ensure!(found == "app", "{host}: {found}");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_may_be_patterns_and_the_longest_wins() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let rule = |host: &str, answer: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {answer}}}\nspec:\n  \
             hosts: ['{host}']\n  http:\n  - directResponse: {{status: 200, body: {{string: {answer}}}}}\n"
        )
    };
    for (host, answer) in [
        ("*.example", "wide"),
        ("*.shop.example", "narrow"),
        ("api.shop.example", "exact"),
        ("plain.test", "plain"),
    ] {
        mesh.policy.apply(answer, &rule(host, answer))?;
    }
    let (_sidecar, client) = mesh.caller().await?;
    for (host, expected) in [
        ("www.example", "wide"),
        ("a.b.example", "wide"),
        ("www.shop.example", "narrow"),
        ("api.shop.example", "exact"),
        ("plain.test", "plain"),
    ] {
        let found = rule_of(&client, host).await?;
        ensure!(found == expected, "{host}: {expected} wanted, got {found}");
    }
    let other = client.get("http://example/").send().await?;
    ensure!(!other.status.is_success(), "a pattern does not match its own suffix");
    Ok(())
}

async fn rule_of(client: &Client, host: &str) -> Result<String> {
    rule(client.get(&format!("http://{host}/"))).await
}
