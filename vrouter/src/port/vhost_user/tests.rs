//! Rings and queues against a driver that is written from the standard alone, on plain memory.

mod driver;
mod exchange;
mod hostile;
mod recovery;
