//! Files of questions.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::question::{Question, QuestionError};

/// The largest file that is read, in bytes: a million questions are half of it.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The name that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Why a file of questions cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadProbesError {
    #[error("cannot read {}", file.display())]
    Io {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; split it", file.display())]
    TooLarge { file: PathBuf },
    #[error("{} is no JSON", file.display())]
    Syntax {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: the probes are not a list; put them into [ and ]", file.display())]
    NotAList { file: PathBuf },
}

/// Reads a file of questions; `-` is standard input. What is wrong with one of them is in its
/// place.
///
/// # Errors
///
/// Fails if the file is no list.
pub(super) fn read(file: &Path) -> Result<Vec<Result<Question, QuestionError>>, ReadProbesError> {
    let failed = |source| ReadProbesError::Io { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let read = if file == Path::new(STANDARD_INPUT) {
        io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    };
    if read.map_err(failed)? as u64 > FILE_BYTES_MAX {
        return Err(ReadProbesError::TooLarge { file: file.to_owned() });
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|source| ReadProbesError::Syntax { file: file.to_owned(), source })?;
    let Value::Array(probes) = value else {
        return Err(ReadProbesError::NotAList { file: file.to_owned() });
    };
    Ok(probes.iter().map(Question::from_json).collect())
}
