//! The proxies' end of questions: carries them to one proxy, and its answers back to who asked.

use std::time::Duration;

use pillion_xds::observe::{
    Answer, Cancel, Question,
    observation_server::{self, ObservationServer},
    question::Ask,
};
use rustc_hash::FxHashMap;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Posed, ReplyTo};
use crate::{
    serve::{Command, Hub, callers::Callers},
    task,
};

/// Largest answer in bytes; proxies stay far below.
const MAX_ANSWER: usize = 1 << 20;

/// Most questions that one proxy has at once.
const MAX_QUESTIONS: usize = 16;

/// How often it is looked whether those who have asked still want to know.
const SWEEP: Duration = Duration::from_secs(1);

/// Takes proxies that attach.
pub(in crate::serve) struct Observation {
    hub: Hub,
    /// Finds out who calls; in plain text nobody can know.
    callers: Option<Callers>,
}

/// The service that proxies attach to.
pub(in crate::serve) fn service(hub: Hub, callers: Option<Callers>) -> ObservationServer<Observation> {
    ObservationServer::new(Observation { hub, callers }).max_decoding_message_size(MAX_ANSWER)
}

#[tonic::async_trait]
impl observation_server::Observation for Observation {
    type AttachStream = ReceiverStream<Result<Question, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<Answer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let stranger = || Status::failed_precondition("the connection carries no discovery stream");
        let stopping = |_| Status::unavailable("the control plane is stopping");
        let proved = self.callers.as_ref().map(|callers| callers.identify(&request)).transpose()?;
        let identity = proved.map(|proved| proved.identity);
        let peer = request.remote_addr().ok_or_else(stranger)?;
        let (ask, asked) = mpsc::channel(MAX_QUESTIONS);
        let attach = |answer| Command::Attach { peer, identity, ask, answer };
        if !self.hub.ask(attach).await.map_err(stopping)? {
            return Err(stranger());
        }
        let (questions, outgoing) = mpsc::channel(MAX_QUESTIONS);
        task::spawn("proxy questions", converse(request.into_inner(), asked, questions));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Carries questions and answers until the proxy or its discovery stream is gone. Who still waits then notices, as the
/// way of the answers is gone, too.
async fn converse(
    mut answers: Streaming<Answer>,
    mut asked: mpsc::Receiver<Posed>,
    questions: mpsc::Sender<Result<Question, Status>>,
) {
    let mut open = Open::default();
    loop {
        let is_open = !open.questions.is_empty();
        let said = tokio::select! {
            asked = asked.recv() => match asked {
                Some(asked) => open.ask(asked),
                None => return,
            },
            answer = answers.message() => match answer {
                Ok(Some(answer)) => open.answer(answer),
                Ok(None) | Err(_) => return,
            },
            () = sleep(SWEEP), if is_open => open.sweep(),
        };
        for question in said {
            // A proxy that takes no questions gets none; who has asked hears nothing and goes on without it.
            if let Err(TrySendError::Closed(_)) = questions.try_send(Ok(question)) {
                return;
            }
        }
    }
}

/// The questions that a proxy has not answered for good.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) questions: FxHashMap<u64, ReplyTo>,
    last: u64,
}

impl Open {
    /// Takes a question; what is to be said to the proxy.
    pub(super) fn ask(&mut self, Posed { ask, reply }: Posed) -> Vec<Question> {
        let mut said = self.sweep();
        if self.questions.len() < MAX_QUESTIONS {
            self.last += 1;
            self.questions.insert(self.last, reply);
            said.push(Question { id: self.last, ask: Some(ask) });
        }
        said
    }

    /// Hands an answer to who has asked. What they have no room for is left out, and told with the next answer.
    pub(super) fn answer(&mut self, answer: Answer) -> Vec<Question> {
        let (id, is_last) = (answer.id, answer.last);
        if let Some(reply) = self.questions.get_mut(&id) {
            reply.send(answer);
        }
        if is_last {
            self.questions.remove(&id);
        }
        self.sweep()
    }

    /// Calls off the questions whose answers nobody waits for.
    pub(super) fn sweep(&mut self) -> Vec<Question> {
        let given_up = self.questions.extract_if(|_, reply| reply.is_closed());
        given_up.map(|(id, _)| Question { id, ask: Some(Ask::Cancel(Cancel {})) }).collect()
    }
}
