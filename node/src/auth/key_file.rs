//! A file that holds a private key and the certificates that go with it: one PEM file, so that they change together.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::data_dir::replace_file;

/// How much of a file is read at most, in bytes: a damaged one may have any length.
const KEY_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Characters of a line of PEM.
const LINE_CHARS: usize = 64;

/// Why a file with a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or made.
    #[error("cannot use the key file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is one already, and it is not made twice.
    #[error("the key file {} exists already", path.display())]
    Present {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read it.
    #[error("the key file {} has mode {mode:o}, others may read it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what it must.
    #[error("the key file {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl KeyFileError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk of the data directory".to_owned())
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run hearth as root".to_owned())
            }
            Self::Io { .. } => None,
            Self::Present { .. } => Some("use another data directory: this one belongs to a cluster".to_owned()),
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Damaged { .. } => Some("restore it from a backup".to_owned()),
        }
    }
}

/// What such a file holds.
pub(super) struct KeyFile<const CERTIFICATES: usize> {
    pub(super) key: PrivatePkcs8KeyDer<'static>,
    pub(super) certificates: [CertificateDer<'static>; CERTIFICATES],
}

impl<const CERTIFICATES: usize> KeyFile<CERTIFICATES> {
    /// Reads the file at `path`: a key, then exactly so many certificates, and only its owner may read it.
    pub(super) fn read(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
        }
        let mut content = Vec::new();
        file.take(KEY_FILE_MAX_BYTES).read_to_end(&mut content).map_err(failed)?;
        Self::parse(&content).map_err(|reason| KeyFileError::Damaged { path: path.to_owned(), reason })
    }

    /// Reads what [`KeyFile::text`] wrote; says what is wrong with it otherwise.
    pub(super) fn parse(content: &[u8]) -> Result<Self, String> {
        let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(content);
        let mut next = |kind: SectionKind, what: &str| match sections.next() {
            Some(Ok((found, der))) if found == kind => Ok(der),
            Some(Err(_)) => Err("it is not PEM".to_owned()),
            Some(Ok(_)) | None => Err(format!("it lacks {what}")),
        };
        let key = next(SectionKind::PrivateKey, "a private key")?;
        let mut certificates = Vec::with_capacity(CERTIFICATES);
        for _ in 0..CERTIFICATES {
            certificates.push(CertificateDer::from(next(SectionKind::Certificate, "a certificate")?));
        }
        if sections.next().is_some() {
            return Err("something follows its certificates".to_owned());
        }
        let certificates = certificates.try_into().map_err(|_| "it lacks a certificate".to_owned())?;
        Ok(Self { key: key.into(), certificates })
    }

    /// Puts the file at `path`, in the place of what is there, durably and for its owner alone.
    pub(super) fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
        replace_file(path, self.text().as_bytes(), 0o600).map_err(failed)
    }

    /// Returns what the file holds.
    pub(super) fn text(&self) -> String {
        let mut text = encode("PRIVATE KEY", self.key.secret_pkcs8_der());
        for certificate in &self.certificates {
            text.push_str(&encode("CERTIFICATE", certificate));
        }
        text
    }

    /// Puts the file at `path`, where there must be none.
    pub(super) fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        match fs::symlink_metadata(path) {
            Ok(_) => Err(KeyFileError::Present { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write(path),
            Err(source) => Err(KeyFileError::Io { path: path.to_owned(), source }),
        }
    }
}

/// Returns one section of PEM.
fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut section = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        section.push_str(line);
        section.push('\n');
        rest = after;
    }
    section.push_str(&format!("-----END {label}-----\n"));
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        replace_file(path, text.as_bytes(), mode).unwrap();
    }

    #[test]
    fn a_file_reads_back_as_it_was_written_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        for length in [1, 47, 48, 49, 500] {
            let file = KeyFile { key: vec![7; length].into(), certificates: [vec![8; length].into(), vec![9].into()] };
            file.write(&path).unwrap();
            let read = KeyFile::<2>::read(&path).unwrap();
            assert_eq!((read.key, read.certificates), (file.key, file.certificates));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_holds_anything_else_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        let (key, certificate) = (encode("PRIVATE KEY", b"key"), encode("CERTIFICATE", b"certificate"));
        for (content, expected) in [
            (String::new(), "it lacks a private key"),
            ("\0\0\0".to_owned(), "it lacks a private key"),
            (certificate.clone(), "it lacks a private key"),
            (key.clone(), "it lacks a certificate"),
            (format!("{key}{key}"), "it lacks a certificate"),
            (format!("{key}{}", &certificate[..certificate.len() - 3]), "it is not PEM"),
            (format!("{key}{}", certificate.replace('Y', "!")), "it is not PEM"),
            (format!("{key}{certificate}{certificate}"), "something follows its certificates"),
        ] {
            write(&path, &content, 0o600);
            match KeyFile::<1>::read(&path) {
                Err(KeyFileError::Damaged { reason, .. }) => assert_eq!(reason, expected, "{content:?}"),
                Err(other) => panic!("{content:?}: {other}"),
                Ok(_) => panic!("{content:?} was taken"),
            }
        }
        write(&path, &format!("{key}{certificate}"), 0o640);
        assert!(matches!(KeyFile::<1>::read(&path), Err(KeyFileError::Exposed { mode: 0o640, .. })));
    }
}
