//! Huge pages of 2 MiB for those measured. There may be others who use some: their number is only
//! ever raised, and stays so.

use std::{fs, io};

const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Why there are not enough.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ReserveError {
    #[error("cannot read or set the number of huge pages in {FOLDER}; is this run as root?")]
    Access(#[from] io::Error),

    #[error(
        "{wanted} free huge pages of 2 MiB are needed and {free} are to be had: free some memory, \
         or restart the machine; see hugepages.md"
    )]
    TooFew { wanted: u64, free: u64 },
}

/// Sees to it that so many are free.
///
/// # Errors
///
/// Fails if the kernel does not find that much memory in one piece, or does not let us ask.
pub fn reserve(wanted: u64) -> Result<(), ReserveError> {
    // Where the kernel knows of no huge pages, there is nothing to read.
    if wanted == 0 {
        return Ok(());
    }
    let free = read("free_hugepages")?;
    if free >= wanted {
        return Ok(());
    }
    let total = read("nr_hugepages")?;
    fs::write(format!("{FOLDER}/nr_hugepages"), (total + wanted - free).to_string())?;
    let free = read("free_hugepages")?;
    if free < wanted { Err(ReserveError::TooFew { wanted, free }) } else { Ok(()) }
}

fn read(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("{FOLDER}/{name}"))?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_are_always_there() {
        assert!(reserve(0).is_ok());
    }
}
