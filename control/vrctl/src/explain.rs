//! `vrctl explain`: may this end open a connection to that one, and which policy says so?
//!
//! Offline, the manifests are compiled by the code that control runs, and the result is asked as
//! the engine's workers ask it. Here is only what is around them: names, files and words.

mod answer;
mod judge;
mod offline;
mod options;
mod probes;
mod question;
mod stand_in;
mod text;
mod world;

use std::path::PathBuf;

use control::manifests::ManifestError;

pub(crate) use self::options::ExplainOptions;
use self::{
    answer::{Entry, Unanswered},
    judge::SetError,
    offline::Offline,
    probes::ReadProbesError,
    question::{Question, QuestionError},
    world::ResolveError,
};
use crate::{exit::Failure, manifests::Manifests, print::Printer};

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
/// Fails if a manifest is broken, an end does not exist, or a question cannot be understood. Of a
/// file's questions all others are answered before.
pub(crate) fn run(options: &ExplainOptions, printer: &mut Printer) -> Result<(), Failure> {
    // The questions first: a slip in them should not take as long as a large cluster does.
    let asked = asked(options)?;
    let folder = &options.manifests;
    let manifests = Manifests::load(folder)
        .map_err(|source| ExplainFailure::Manifest { folder: folder.clone(), source })?;
    let mut offline =
        Offline::new(&manifests, options.node.as_ref()).map_err(ExplainFailure::from)?;
    drop(manifests);
    if let Some(node) = options.node.as_ref().filter(|node| !offline.knows(node)) {
        eprintln!("vrctl: no manifest is about a node {node}; its own addresses are not known");
    }
    match asked {
        Asked::One(question) => one(&question, options, &mut offline, printer),
        Asked::Many(questions) => many(&questions, &mut offline, printer),
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

fn one(
    question: &Question,
    options: &ExplainOptions,
    offline: &mut Offline,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let answer = offline.answer(question).map_err(ExplainFailure::from)?;
    if printer.is_json() {
        return printer.object(&answer);
    }
    let text = text::describe(&answer, options.node.as_ref(), |direction| {
        offline.near_misses(question, direction)
    });
    printer.text(text.trim_end())
}

fn many(
    questions: &[Result<Question, QuestionError>],
    offline: &mut Offline,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let answer = |question: &Result<Question, QuestionError>| {
        let error = match question {
            Ok(question) => match offline.answer(question) {
                Ok(answer) => return Entry::Answer(Box::new(answer)),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        Entry::Error(Unanswered { error })
    };
    let entries: Vec<Entry> = questions.iter().map(answer).collect();
    printer.list(&entries)?;
    let mut errors = entries.iter().enumerate().filter_map(|(index, entry)| match entry {
        Entry::Error(unanswered) => Some((index, unanswered.error.clone())),
        Entry::Answer(_) => None,
    });
    let Some((first, error)) = errors.next() else { return Ok(()) };
    let (bad, count) = (1 + errors.count(), entries.len());
    Err(ExplainFailure::Unanswered { bad, count, first, error }.into())
}
