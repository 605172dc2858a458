//! Safety of retries: nothing that may have had effects is done twice, and what certainly had none is not lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Client, Instance, Mesh, is_full_size, task};
use tokio::task::JoinSet;

const REPLICAS: usize = 3;
const CALLERS: usize = 24;

/// Requests that were not answered 2xx.
#[derive(Default)]
struct Failed {
    /// There was no connection to send them on.
    unsent: BTreeMap<u64, String>,
    /// The connection broke after something had been sent.
    in_doubt: BTreeSet<u64>,
}

async fn caller(client: Client, next: Arc<AtomicU64>, count: u64) -> Result<Failed> {
    let mut failed = Failed::default();
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        if id >= count {
            return Ok(failed);
        }
        let call = client.post("http://app/upload").header("x-id", &format!("{id};")).body("pay 100");
        let reply = call.limit(Duration::from_secs(30)).send().await?;
        if !reply.status.is_success() {
            match reply.flag() {
                "UF" => drop(failed.unsent.insert(id, reply.header("x-pillion-error").to_owned())),
                "UC" | "UR" => drop(failed.in_doubt.insert(id)),
                _ => anyhow::bail!("{reply:?}"),
            }
        }
    }
}

/// Kills one of the replicas after the other at random moments; the others live meanwhile.
async fn killer(mut apps: Vec<Instance>, stop: Arc<AtomicBool>) -> Result<(Vec<Instance>, u64)> {
    let mut kills = 0;
    while !stop.load(Ordering::Relaxed) {
        let app = &mut apps[fastrand::usize(0..REPLICAS)];
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..60))).await;
        app.kill().await?;
        kills += 1;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2..15))).await;
        app.revive().await?;
    }
    Ok((apps, kills))
}

/// What the replicas know of all requests together.
struct Known {
    executions: HashMap<String, u64>,
    repeated: u64,
    unread: String,
}

fn known(apps: &[Instance]) -> Result<Known> {
    let mut known = Known { executions: HashMap::new(), repeated: 0, unread: String::new() };
    for app in apps {
        let stats = app.stats()?;
        for (id, times) in stats.executions() {
            *known.executions.entry(id).or_default() += times;
        }
        known.repeated += stats.seen().iter().filter(|seen| !seen.attempt.is_empty()).count() as u64;
        known.unread.push_str(&stats.unread().text());
    }
    Ok(known)
}

/// With `PILLION_TEST_FULL` the two hundred thousand of the promise.
#[tokio::test]
async fn posts_are_neither_done_twice_nor_lost_while_upstreams_die() -> Result<()> {
    let count: u64 = if is_full_size() { 200_000 } else { 10_000 };
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..REPLICAS {
        let app = mesh.serve("app", "v1").await?;
        // Long enough for many to be under way when their replica dies.
        app.app()?.faults().set_delay(Duration::from_millis(2));
        apps.push(app);
    }
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let killer = task::spawn(killer(apps, stop.clone()));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(caller(client.clone(), next.clone(), count));
    }
    let mut failed = Failed::default();
    for of_one in callers.join_all().await {
        let mut of_one = of_one?;
        failed.unsent.append(&mut of_one.unsent);
        failed.in_doubt.append(&mut of_one.in_doubt);
    }
    stop.store(true, Ordering::Relaxed);
    let (apps, kills) = killer.join().await??;
    let known = known(&apps)?;
    let twice = known.executions.iter().find(|(_, times)| **times > 1);
    ensure!(twice.is_none(), "{twice:?} executions");
    let done = |id: &u64| known.executions.contains_key(&format!("{id};"));
    let answered = |id: &u64| !failed.unsent.contains_key(id) && !failed.in_doubt.contains(id);
    let lost = (0..count).find(|id| answered(id) && !done(id));
    ensure!(lost.is_none(), "{lost:?} was answered and never executed");
    let (unsent, recovered) = (failed.unsent.len() as u64, known.repeated);
    ensure!(kills >= 20 && recovered >= 100, "{recovered} requests were repeated in {kills} kills");
    // Of a few hundred a single one is more than the thousandth that may be lost.
    ensure!(
        unsent.saturating_sub(1) * 1000 <= recovered + unsent,
        "{recovered} were recovered, not sent: {:?}",
        failed.unsent
    );
    // What lay unread in a socket when its replica died had arrived, as far as anybody could know. What was on its way
    // just then cannot be told from that; but whoever writes to connections known to be closed has many of these.
    let arrived = |id: &u64| done(id) || known.unread.contains(&format!("x-id: {id};"));
    let underway = failed.in_doubt.iter().filter(|id| !arrived(id)).count() as u64;
    ensure!(underway * 5 <= recovered, "{underway} were lost on their way, {recovered} were recovered");
    Ok(())
}
