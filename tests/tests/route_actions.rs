//! What a route does beside forwarding: rewrite, redirect, direct response, header operations.

use anyhow::{Result, ensure};
use pillion_tests::policy::SUBSETS;
use pillion_tests::{Client, Instance, Mesh, Sidecar, Wire};

async fn mesh(rules: &str) -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.destination("app", SUBSETS)?;
    mesh.policy.routes("app", rules)?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

#[tokio::test]
async fn rewrites_of_the_path() -> Result<()> {
    let to_app = "route: [{destination: {host: app}}]";
    let (_mesh, _sidecar, client, _app) = mesh(&format!(
        "- {{match: [{{uri: {{prefix: /slash/}}}}], rewrite: {{uri: /}}, {to_app}}}
- {{match: [{{uri: {{prefix: /bare}}}}], rewrite: {{uri: /}}, {to_app}}}
- {{match: [{{uri: {{exact: /whole}}}}], rewrite: {{uri: /new/path}}, {to_app}}}
- {{match: [{{uri: {{prefix: /old}}}}], rewrite: {{uri: /new}}, {to_app}}}
- match: [{{uri: {{prefix: /api}}}}]
  rewrite: {{uriRegexRewrite: {{match: '^/api/users/([0-9]+)', rewrite: '/users/\\1/profile'}}}}
  {to_app}
- {to_app}"
    ))
    .await?;
    for (sent, received) in [
        ("/slash/x", "/x"),
        ("/bare/x", "//x"),
        ("/whole", "/new/path"),
        ("/whole?a=b", "/new/path?a=b"),
        ("/old/x?a=b", "/new/x?a=b"),
        ("/api/users/42/orders?a=/api/users/1", "/users/42/profile/orders?a=/api/users/1"),
        ("/api/else", "/api/else"),
        ("/untouched", "/untouched"),
    ] {
        let reply = client.get(&format!("http://app{sent}")).send().await?.expect(200)?;
        // The front page answers for "/": what arrived is told by all others.
        let echo = reply.json()?;
        ensure!(echo["path"] == received, "{sent}: {received} wanted, got {}", echo["path"]);
    }
    Ok(())
}

#[tokio::test]
async fn rewrites_of_the_authority() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh(
        "- rewrite: {authority: shop.example}
  route: [{destination: {host: app}}]",
    )
    .await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.get("http://app/echo").send().await?.expect(200)?;
        assert_eq!(reply.received("host")?, ["shop.example"]);
        assert_eq!(reply.json()?["path"], "/echo");
    }
    Ok(())
}

#[tokio::test]
async fn redirects() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh(
        "- {match: [{uri: {exact: /path}}], redirect: {uri: /elsewhere}}
- {match: [{uri: {exact: /host}}], redirect: {authority: other.example, redirectCode: 302}}
- {match: [{uri: {exact: /tls}}], redirect: {scheme: https, redirectCode: 308}}
- {match: [{uri: {exact: /port}}], redirect: {port: 8443, redirectCode: 307}}
- {match: [{uri: {exact: /default-port}}], redirect: {scheme: https, port: 443, redirectCode: 303}}",
    )
    .await?;
    for (sent, status, location) in [
        ("/path", 301, "http://app/elsewhere"),
        ("/path?a=b", 301, "http://app/elsewhere"),
        ("/host", 302, "http://other.example/host"),
        ("/host?a=b", 302, "http://other.example/host?a=b"),
        ("/tls", 308, "https://app/tls"),
        ("/port", 307, "http://app:8443/port"),
        ("/default-port", 303, "https://app/default-port"),
    ] {
        let reply = client.get(&format!("http://app{sent}")).send().await?.expect(status)?;
        let found = reply.header("location");
        // A query may be kept or dropped where the whole path is replaced; all else is fixed.
        let plain = found.split('?').next().unwrap_or(found);
        ensure!(
            found == location || (sent == "/path?a=b" && plain == location),
            "{sent}: {location} wanted, got {found}"
        );
    }
    assert_eq!(app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn direct_responses() -> Result<()> {
    let (_mesh, sidecar, client, app) = mesh(
        "- match: [{uri: {exact: /string}}]
  directResponse: {status: 503, body: {string: closed for today}}
  headers: {response: {set: {retry-after: '60'}}}
- match: [{uri: {exact: /bytes}}]
  directResponse: {status: 200, body: {bytes: aGVsbG8=}}
- match: [{uri: {exact: /empty}}]
  directResponse: {status: 204}",
    )
    .await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.get("http://app/string").send().await?.expect(503)?;
        assert_eq!((reply.text().as_str(), reply.header("retry-after")), ("closed for today", "60"));
        assert_eq!(client.get("http://app/bytes").send().await?.expect(200)?.text(), "hello");
        assert_eq!(client.get("http://app/empty").send().await?.expect(204)?.text(), "");
    }
    assert_eq!(app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn header_operations_of_route_and_destination() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh(
        "- headers:
    request:
      set: {x-set: route, x-both: route}
      add: {x-add: route}
      remove: [x-gone]
    response:
      set: {x-reply: route, x-version: hidden}
      add: {x-added: route}
      remove: [x-instance]
  route:
  - destination: {host: app, subset: v1}
    headers:
      request:
        set: {x-both: destination}
        add: {x-add: destination}
      response:
        add: {x-added: destination}",
    )
    .await?;
    let call = client
        .get("http://app/echo")
        .header("x-set", "client")
        .header("x-add", "client")
        .header("x-gone", "1");
    let reply = call.send().await?.expect(200)?;
    assert_eq!(reply.received("x-set")?, ["route"]);
    assert_eq!(reply.received("x-both")?, ["destination"], "the destination wins for set");
    assert_eq!(reply.received("x-gone")?, [""; 0]);
    let mut added =
        reply.received("x-add")?.join(",").split(',').map(|v| v.trim().to_owned()).collect::<Vec<_>>();
    added.sort();
    assert_eq!(added, ["client", "destination", "route"]);
    assert_eq!((reply.header("x-reply"), reply.header("x-version")), ("route", "hidden"));
    ensure!(!reply.headers.contains_key("x-instance"), "{:?}", reply.headers);
    let mut added: Vec<String> = reply
        .headers
        .get_all("x-added")
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("").split(',').map(|v| v.trim().to_owned()))
        .collect();
    added.sort();
    assert_eq!(added, ["destination", "route"]);
    Ok(())
}

#[tokio::test]
async fn setting_host_is_a_rewrite_of_the_authority() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh(
        "- headers: {request: {set: {Host: shop.example}}}
  route: [{destination: {host: app}}]",
    )
    .await?;
    let reply = client.get("http://app/echo").send().await?.expect(200)?;
    assert_eq!(reply.received("host")?, ["shop.example"]);
    Ok(())
}

#[tokio::test]
async fn answers_that_may_have_no_body_have_none() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh(
        "- match: [{uri: {exact: /204}}]
  directResponse: {status: 204, body: {string: stray}}
- match: [{uri: {exact: /304}}]
  directResponse: {status: 304, body: {string: stray}}
- directResponse: {status: 200, body: {string: body}}",
    )
    .await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for request in ["GET /204", "GET /304", "HEAD /200"] {
        wire.send(format!("{request} HTTP/1.1\r\nHost: app\r\n\r\n")).await?;
        // A stray body would stand before the next head.
        let head = wire.head().await?;
        ensure!(head.starts_with("HTTP/1.1 ") && !head.contains("stray"), "{request}: {head}");
    }
    for client in [client, sidecar.app_http2()] {
        for (method, path, status) in [("GET", "204", 204), ("GET", "304", 304), ("HEAD", "200", 200)] {
            let call = client.request(method.parse()?, &format!("http://app/{path}"));
            let reply = call.send().await?.expect(status)?;
            ensure!(reply.body.is_empty(), "{method} {path} over {:?}: {:?}", reply.version, reply.text());
        }
        assert_eq!(client.get("http://app/200").send().await?.expect(200)?.text(), "body");
    }
    Ok(())
}
