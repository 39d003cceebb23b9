//! `vrctl explain`: may this end open a connection to that one, and which policy says so?
//!
//! Offline, the manifests are compiled by the code that control runs, and the result is asked as
//! the engine's workers ask it. Here is only what is around them: names, files and words.

mod answer;
mod direction;
mod judge;
mod live;
mod offline;
mod options;
mod probes;
mod question;
mod stand_in;
mod text;
mod world;

use std::{error::Error, path::PathBuf};

use control::manifests::ManifestError;

#[cfg(test)]
pub(crate) use self::answer::Cause;
pub(crate) use self::{
    answer::{Answer, EndView, Reason, Verdict, traffic, word},
    direction::Direction,
    live::Live,
    offline::Offline,
    options::{ExplainOptions, parse_node},
    question::{EndName, Protocol, Question},
    world::LocalPod,
};
use self::{
    answer::{Entry, Unanswered},
    judge::SetError,
    live::LiveError,
    offline::NearMiss,
    probes::ReadProbesError,
    question::QuestionError,
    world::ResolveError,
};
use crate::{exit::Failure, peer::Peers, print::Printer};

/// Why there is no answer, or not to everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ExplainFailure {
    #[error("the manifests in {} cannot be judged by", folder.display())]
    Manifest {
        folder: PathBuf,
        #[source]
        source: ManifestError,
    },

    #[error(transparent)]
    Set(#[from] SetError),

    #[error("{0}; `vrctl explain --help` has examples")]
    Question(QuestionError),

    #[error(transparent)]
    Resolve(#[from] ResolveError),

    #[error(transparent)]
    Live(#[from] LiveError),

    #[error("the engine left this question without an answer; ask again")]
    NoAnswer,

    #[error(transparent)]
    Probes(#[from] ReadProbesError),

    #[error(
        "{bad} of {count} probes have no answer: the first is number {first} (from 0): {error}"
    )]
    Unanswered { bad: usize, count: usize, first: usize, error: String },
}

impl ExplainFailure {
    /// Whether the command line is at fault, and not a file.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Question(_))
    }
}

/// Answers the command line's question, or a file's.
///
/// # Errors
///
/// Fails if a manifest is broken, the engine cannot be asked, an end does not exist, or a question
/// cannot be understood. Of a file's questions all others are answered before.
pub(crate) async fn run(
    options: &ExplainOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    // The questions first: a slip in them should not take as long as a large cluster does.
    let asked = asked(options)?;
    let Some(folder) = &options.manifests else {
        let mut live = Live::connect(peers).await?;
        return match asked {
            Asked::One(question) => {
                let mut answers = live.answers(&[&question]).await?;
                let answer = answers.pop().transpose().map_err(ExplainFailure::from)?;
                answer.map_or(Ok(()), |answer| print(&answer, options, printer, |_| Vec::new()))
            }
            Asked::Many(questions) => {
                let good: Vec<&Question> = questions.iter().flatten().collect();
                let mut answers = live.answers(&good).await?.into_iter();
                // A question that has none keeps its place, so that the others keep theirs.
                let answer = |_: &Question| match answers.next() {
                    Some(answer) => answer.map_err(ExplainFailure::from),
                    None => Err(ExplainFailure::NoAnswer),
                };
                print_all(&questions, answer, printer)
            }
        };
    };
    let mut offline = Offline::open(folder, options.node.as_ref(), None)?;
    if let Some(node) = options.node.as_ref().filter(|node| !offline.knows(node)) {
        eprintln!("vrctl: no manifest is about a node {node}; its own addresses are not known");
    }
    match asked {
        Asked::One(question) => {
            let answer = offline.answer(&question).map_err(ExplainFailure::from)?;
            print(&answer, options, printer, |direction| offline.near_misses(&question, direction))
        }
        Asked::Many(questions) => {
            print_all(&questions, |question| offline.answer(question), printer)
        }
    }
}

/// What is to be answered.
enum Asked {
    One(Question),
    Many(Vec<Result<Question, QuestionError>>),
}

fn asked(options: &ExplainOptions) -> Result<Asked, ExplainFailure> {
    let ExplainOptions { from, to, protocol, port, family, .. } = options;
    if let Some(file) = &options.probes {
        return Ok(Asked::Many(probes::read(file)?));
    }
    let (Some(from), Some(to)) = (from.clone(), to.clone()) else {
        let (field, expected) = ("--from and --to", "namespace/pod or an address for each");
        return Err(ExplainFailure::Question(QuestionError::Missing { field, expected }));
    };
    let question = Question::new(from, to, *protocol, *port, *family);
    question.map(Asked::One).map_err(ExplainFailure::Question)
}

fn print(
    answer: &Answer,
    options: &ExplainOptions,
    printer: &mut Printer,
    near_misses: impl FnMut(Direction) -> Vec<NearMiss>,
) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.object(answer);
    }
    let text = text::describe(answer, options.node.as_ref(), near_misses);
    printer.text(text.trim_end())
}

/// Prints a list of answers. `answer` is called once for each question that was understood.
fn print_all<E: Error>(
    questions: &[Result<Question, QuestionError>],
    mut answer: impl FnMut(&Question) -> Result<Answer, E>,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let entry = |question: &Result<Question, QuestionError>| {
        let error = match question {
            Ok(question) => match answer(question) {
                Ok(answer) => return Entry::Answer(Box::new(answer)),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        Entry::Error(Unanswered { error })
    };
    let entries: Vec<Entry> = questions.iter().map(entry).collect();
    printer.list(&entries)?;
    let mut errors = entries.iter().enumerate().filter_map(|(index, entry)| match entry {
        Entry::Error(unanswered) => Some((index, unanswered.error.clone())),
        Entry::Answer(_) => None,
    });
    let Some((first, error)) = errors.next() else { return Ok(()) };
    let (bad, count) = (1 + errors.count(), entries.len());
    Err(ExplainFailure::Unanswered { bad, count, first, error }.into())
}
