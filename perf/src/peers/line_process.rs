//! A program that answers each line with a line.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::PeerError;

/// A running program. It ends with this.
pub struct LineProcess {
    name: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl fmt::Debug for LineProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LineProcess").field("child", &self.child).finish_non_exhaustive()
    }
}

impl LineProcess {
    /// Starts it. What it says on its standard error is passed on.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, PeerError> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child =
            started.map_err(|source| PeerError::Run { program: name.to_owned(), source })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(PeerError::Ended { program: name.to_owned() });
        };
        Ok(Self { name: name.to_owned(), child, input, output: BufReader::new(output) })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line, and returns the next that comes, without its end.
    ///
    /// # Errors
    ///
    /// Fails once it has ended.
    pub fn ask(&mut self, line: &str) -> Result<String, PeerError> {
        self.tell(line)?;
        self.listen()
    }

    /// Sends a line.
    ///
    /// # Errors
    ///
    /// Fails once it has ended.
    pub fn tell(&mut self, line: &str) -> Result<(), PeerError> {
        let sent = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        sent.map_err(|_| self.ended())
    }

    /// Waits for its next line.
    ///
    /// # Errors
    ///
    /// Fails once it has ended.
    pub fn listen(&mut self) -> Result<String, PeerError> {
        let mut answer = String::new();
        match self.output.read_line(&mut answer) {
            Ok(1..) => Ok(answer.trim_end().to_owned()),
            Ok(0) | Err(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> PeerError {
        PeerError::Ended { program: self.name.clone() }
    }
}

impl Drop for LineProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_answered_by_one() {
        let mut cat = LineProcess::start("cat", &mut Command::new("cat")).unwrap();
        assert_eq!(cat.ask("one").unwrap(), "one");
        assert_eq!(cat.ask("two").unwrap(), "two");
    }

    #[test]
    fn a_program_that_has_ended_is_an_error() {
        let mut ended = LineProcess::start("true", &mut Command::new("true")).unwrap();
        let error = ended.listen().unwrap_err().to_string();
        assert!(error.starts_with("true ended early"), "{error}");
    }
}
