use super::*;
use crate::{
    control::{
        access::tests::{CALLER, Caller, Fake, TOKEN},
        identity::{
            Parts, Status,
            tests::{mesh, parts},
        },
    },
    telemetry::metrics::Metrics,
    tls::{credentials::Credentials, testing::Authority},
    view::View,
};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A keeper at work, and what it works with.
struct Work {
    caller: Caller,
    access: Arc<Access>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

/// Runs a keeper towards `fake` for as long as `test` does.
async fn at_work<F: Future<Output = ()>>(fake: &Fake, token: &str, test: impl FnOnce(Work) -> F) {
    let caller = Caller::new(fake);
    caller.token(token);
    let (parts, _wallet, _views, metrics) = parts();
    let parts = Parts { wallet: Arc::clone(&caller.wallet), views: Arc::clone(&caller.views), ..parts };
    let (holder, status) = Holder::new(parts, "authority");
    let access = Arc::new(caller.access(fake));
    let rng = fastrand::Rng::with_seed(7);
    let keeper = FromAuthority::new(CALLER.parse().unwrap(), Arc::clone(&access), holder, rng);
    let work = Work { caller, access, status, metrics };
    let done = timeout(PATIENCE, async {
        tokio::select! {
            never = keeper.run() => match never {},
            () = test(work) => {}
        }
    });
    done.await.expect("in time");
}

impl Work {
    /// Waits for credentials that are as wanted.
    async fn held(&self, is_wanted: impl Fn(&Credentials) -> bool) -> Arc<Credentials> {
        let mut news = self.caller.wallet.subscribe();
        loop {
            match self.caller.wallet.load() {
                Some(held) if is_wanted(&held) => return held,
                _ => news.changed().await.unwrap(),
            }
        }
    }

    async fn failures(&self, at_least: u64) {
        while self.metrics.identity.failed.get() < at_least {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn error(&self) -> String {
        self.status.describe(clock::now())["renewal"]["error"].to_string()
    }
}

#[tokio::test]
async fn the_first_certificate_is_for_the_token_and_the_next_for_that_certificate() {
    let fake = Fake::usual().await;
    fake.with(|state| state.life = Duration::from_secs(3));
    at_work(&fake, TOKEN, async |work| {
        let first = work.held(|_| true).await;
        assert_eq!(first.identity().uri(), CALLER);
        assert_eq!(first.roots(), std::slice::from_ref(&fake.root.certificate));
        assert_eq!(work.status.ready(), Ok(()));
        fake.with(|state| state.life = Duration::from_secs(3600));
        let second = work.held(|held| held.serial() != first.serial()).await;
        assert_eq!(fake.with(|state| state.shown.clone()), ["token", "certificate"]);
        assert_ne!(first.chain()[0], second.chain()[0]);
        assert_eq!((work.metrics.identity.renewed.get(), work.metrics.identity.failed.get()), (2, 0));
        let due = work.status.describe(clock::now())["renewal"]["due"].clone();
        assert!(due.is_string(), "{due}");
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_and_tried_again() {
    let fake = Fake::usual().await;
    at_work(&fake, "a.bad.token", async |work| {
        work.failures(1).await;
        let told = work.status.ready().unwrap_err();
        assert!(told.contains("bad token proves nothing (Unauthenticated)"), "{told}");
        work.caller.token(TOKEN);
        work.held(|_| true).await;
        assert_eq!(work.error(), "null");
    })
    .await;
}

#[tokio::test]
async fn who_is_back_is_asked_at_once() {
    let fake = Fake::usual().await;
    fake.with(|state| state.refusal = Some(tonic::Status::unavailable("closed for lunch")));
    at_work(&fake, TOKEN, async |work| {
        // The next attempt but one would be four to six seconds away.
        work.failures(3).await;
        assert!(work.error().contains("closed for lunch"), "{}", work.error());
        fake.with(|state| state.refusal = None);
        let back = Instant::now();
        work.access.streams();
        work.held(|_| true).await;
        assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_refused_gives_way_to_the_token() {
    let fake = Fake::usual().await;
    fake.with(|state| {
        // Signed by somebody whom the fake itself does not believe.
        state.signer = Arc::new(Authority::new("stranger"));
        state.life = Duration::from_secs(3);
    });
    at_work(&fake, TOKEN, async |work| {
        let first = work.held(|_| true).await;
        work.failures(1).await;
        work.held(|held| held.serial() != first.serial()).await;
        assert_eq!(fake.with(|state| state.shown.clone()), ["token", "token"]);
    })
    .await;
}

#[tokio::test]
async fn another_signer_has_the_certificate_renewed_soon() {
    let fake = Fake::usual().await;
    at_work(&fake, TOKEN, async |work| {
        let first = work.held(|_| true).await;
        let next = Arc::new(Authority::new("next"));
        fake.with(|state| state.signer = Arc::clone(&next));
        let view = |number, signer| {
            let mesh = mesh(&[&next, &fake.root], &trust::fingerprint(signer));
            View::new(number, Some(Arc::new(mesh)), None)
        };
        work.caller.views.publish(view(1, &fake.root.certificate));
        let both = work.held(|held| held.roots().len() == 2).await;
        assert_eq!(both.serial(), first.serial(), "roots alone need no certificate");
        work.caller.views.publish(view(2, &next.certificate));
        let second = work.held(|held| held.serial() != first.serial()).await;
        assert_eq!(second.chain()[1], next.certificate);
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_no_use_is_not_used() {
    let fake = Fake::usual().await;
    fake.with(|state| state.signer = Arc::new(fake.root.intermediate("below")));
    at_work(&fake, TOKEN, async |work| {
        work.failures(1).await;
        assert!(work.error().contains("there is no root certificate"), "{}", work.error());
        assert!(work.caller.wallet.load().is_none());
        let mesh = mesh(&[&fake.root], "");
        work.caller.views.publish(View::new(1, Some(Arc::new(mesh)), None));
        work.held(|held| held.roots() == [fake.root.certificate.clone()]).await;
    })
    .await;
}
