//! Peers meet over loopback, in real handshakes: who gets in, who does not, and what either side is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control_plane::model::NodeId;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError as Invalid, ClientConfig, Error, HandshakeKind, OtherError, PeerIncompatible,
    ServerConfig, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use super::key_file::KeyFile;
use super::test_cluster::TestCluster;
use super::tls::{PeerTls, join_client, peer_of};
use super::{CERTIFICATE_LIFE, Identity, JoinToken, PeerId, PinError};

/// No meeting takes this long; a test that hangs fails.
const MEETING_MAX: Duration = Duration::from_secs(30);

const WELCOME: &[u8] = b"welcome";

/// Who answers at a port.
#[derive(Clone)]
enum Host {
    Peer(PeerTls),
    Other(Arc<ServerConfig>),
}

/// What one side of a meeting saw: whom it met and what that sent, or why there was no meeting.
type Seen = Result<(Option<PeerId>, Vec<u8>), Error>;

/// What both sides saw.
#[derive(Debug)]
struct Meeting {
    client: Seen,
    server: Seen,
}

impl Meeting {
    /// Returns why there was none, as the client and the server saw it.
    fn refusals(self) -> (Error, Error) {
        (self.client.expect_err("the client got in"), self.server.expect_err("the server let it in"))
    }
}

fn alert(description: AlertDescription) -> Error {
    Error::AlertReceived(description)
}

/// Returns what TLS has to say about a failed read, write or handshake.
fn tls_error(error: io::Error) -> Error {
    let text = error.to_string();
    error.downcast::<Error>().unwrap_or_else(|_| Error::General(text))
}

async fn accept(host: &Host, stream: TcpStream) -> Result<server::TlsStream<TcpStream>, Error> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(tls_error)?;
    let config = match host {
        Host::Peer(tls) => tls.server_for(&start.client_hello()),
        Host::Other(config) => Arc::clone(config),
    };
    start.into_stream(config).await.map_err(tls_error)
}

/// Answers one connection: greets whoever gets in, and hears it out.
async fn serve(host: &Host, listener: &TcpListener) -> Seen {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = accept(host, stream).await?;
    stream.write_all(WELCOME).await.map_err(tls_error)?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.map_err(tls_error)?;
    Ok((peer_of(stream.get_ref().1), heard))
}

async fn connect(
    config: Arc<ClientConfig>,
    name: &str,
    listener: &TcpListener,
) -> Result<client::TlsStream<TcpStream>, Error> {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await.map_err(tls_error)
}

/// Waits to be greeted, says something, and hangs up. In TLS 1.3 a client learns only by reading that it is refused.
async fn talk(mut stream: client::TlsStream<TcpStream>, words: &[u8]) -> Seen {
    let mut welcome = vec![0; WELCOME.len()];
    stream.read_exact(&mut welcome).await.map_err(tls_error)?;
    stream.write_all(words).await.map_err(tls_error)?;
    stream.shutdown().await.map_err(tls_error)?;
    Ok((peer_of(stream.get_ref().1), welcome))
}

/// Lets a client say something to a host, which it believes to be called `name`.
async fn meet(config: Arc<ClientConfig>, name: &str, host: &Host, words: &[u8]) -> Meeting {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = async { talk(connect(config, name, &listener).await?, words).await };
    let (client, server) = timeout(MEETING_MAX, async { tokio::join!(dial, serve(host, &listener)) }).await.unwrap();
    Meeting { client, server }
}

/// Returns a node's TLS that takes every node for a member.
fn tls(cluster: &TestCluster, identity: &Identity) -> PeerTls {
    PeerTls::new(identity, &cluster.clock, |_| true)
}

/// Returns a client that is not ours, with a certificate or none, for servers of `cluster`.
fn other_client(
    cluster: &TestCluster,
    certified: Option<CertifiedKey>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let roots = Arc::clone(&cluster.identity(1).authority_certificate().roots);
    let builder = ClientConfig::builder_with_details(Arc::new(default_provider()), cluster.time())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certified {
        Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Returns a server that is not ours, shows any chain, and takes every client.
fn other_server(
    cluster: &TestCluster,
    certified: CertifiedKey,
    version: &'static SupportedProtocolVersion,
    protocol: &str,
) -> Host {
    let mut config = ServerConfig::builder_with_details(Arc::new(default_provider()), cluster.time())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Host::Other(Arc::new(config))
}

fn certified(chain: Vec<CertificateDer<'static>>, identity: &Identity) -> CertifiedKey {
    CertifiedKey::new(chain, Arc::clone(&identity.certified().key))
}

#[tokio::test]
async fn members_see_who_they_are() {
    let cluster = TestCluster::found();
    let (one, two) = (tls(&cluster, &cluster.identity(1)), tls(&cluster, &cluster.identity(2)));
    let name = cluster.peer(2).dns_name();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = async {
        let stream = connect(one.client(), &name, &listener).await?;
        let connection = stream.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
        talk(stream, b"hello").await
    };
    let host = Host::Peer(two);
    let (client, server) = timeout(MEETING_MAX, async { tokio::join!(dial, serve(&host, &listener)) }).await.unwrap();
    assert_eq!(client, Ok((Some(cluster.peer(2)), WELCOME.to_vec())));
    assert_eq!(server, Ok((Some(cluster.peer(1)), b"hello".to_vec())));
}

#[tokio::test]
async fn a_removed_peer_is_refused_at_its_next_handshake() {
    let cluster = TestCluster::found();
    let removed = Arc::new(AtomicBool::new(false));
    let is_member = {
        let removed = Arc::clone(&removed);
        move |node| node != NodeId(1) || !removed.load(Ordering::Relaxed)
    };
    let host = Host::Peer(PeerTls::new(&cluster.identity(2), &cluster.clock, is_member));
    let name = cluster.peer(2).dns_name();
    // This one would resume a session if it were let.
    let mut config = ClientConfig::clone(&tls(&cluster, &cluster.identity(1)).client());
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = async {
            let stream = connect(Arc::clone(&config), &name, &listener).await?;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            talk(stream, b"").await
        };
        let (client, server) =
            timeout(MEETING_MAX, async { tokio::join!(dial, serve(&host, &listener)) }).await.unwrap();
        client.unwrap();
        server.unwrap();
    }
    removed.store(true, Ordering::Relaxed);
    let (client, server) = meet(config, &name, &host, b"").await.refusals();
    assert_eq!(client, alert(AlertDescription::AccessDenied));
    assert_eq!(server, Error::InvalidCertificate(Invalid::ApplicationVerificationFailure));
    // Others get in as before.
    let other = tls(&cluster, &cluster.identity(3));
    meet(other.client(), &name, &host, b"").await.server.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let cluster = TestCluster::found();
    let (old_client, old_server) = (tls(&cluster, &cluster.identity(1)), tls(&cluster, &cluster.identity(2)));
    let name = cluster.peer(2).dns_name();
    cluster.wait(CERTIFICATE_LIFE);
    meet(old_client.client(), &name, &Host::Peer(old_server.clone()), b"").await.server.unwrap();
    cluster.wait(Duration::from_secs(1));
    let (client, server) = (tls(&cluster, &cluster.identity(1)), tls(&cluster, &cluster.identity(2)));

    let (told, seen) = meet(old_client.client(), &name, &Host::Peer(server), b"").await.refusals();
    assert_eq!(told, alert(AlertDescription::CertificateExpired));
    assert!(matches!(seen, Error::InvalidCertificate(Invalid::ExpiredContext { .. })), "{seen}");

    let (seen, told) = meet(client.client(), &name, &Host::Peer(old_server), b"").await.refusals();
    assert!(matches!(seen, Error::InvalidCertificate(Invalid::ExpiredContext { .. })), "{seen}");
    assert_eq!(told, alert(AlertDescription::CertificateExpired));
}

#[tokio::test]
async fn another_cluster_is_refused_on_either_side() {
    let cluster = TestCluster::found();
    // Even one whose authority gives itself out for ours.
    for other in [TestCluster::found(), TestCluster::found_as(cluster.authority.cluster())] {
        let stranger = other.identity(1);
        let host = Host::Peer(tls(&cluster, &cluster.identity(2)));
        let name = cluster.peer(2).dns_name();
        let show = certified(stranger.certified().cert.clone(), &stranger);
        let (told, seen) = meet(other_client(&cluster, Some(show), &TLS13), &name, &host, b"").await.refusals();
        assert!(matches!(told, Error::AlertReceived(_)), "{told}");
        // The twin has the same name and another key.
        assert!(matches!(seen, Error::InvalidCertificate(Invalid::UnknownIssuer | Invalid::BadSignature)), "{seen}");

        let (seen, told) = meet(tls(&other, &stranger).client(), &name, &host, b"").await.refusals();
        assert!(matches!(seen, Error::InvalidCertificate(Invalid::UnknownIssuer | Invalid::BadSignature)), "{seen}");
        assert!(matches!(told, Error::AlertReceived(_)), "{told}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_the_one_dialled_is_refused() {
    let cluster = TestCluster::found();
    let (one, two) = (tls(&cluster, &cluster.identity(1)), tls(&cluster, &cluster.identity(2)));
    let (seen, told) = meet(one.client(), &cluster.peer(3).dns_name(), &Host::Peer(two), b"").await.refusals();
    assert!(matches!(seen, Error::InvalidCertificate(Invalid::NotValidForNameContext { .. })), "{seen}");
    assert_eq!(told, alert(AlertDescription::BadCertificate));
}

#[tokio::test]
async fn a_client_without_a_certificate_or_its_key_is_refused() {
    let cluster = TestCluster::found();
    let host = Host::Peer(tls(&cluster, &cluster.identity(2)));
    let name = cluster.peer(2).dns_name();
    let (told, seen) = meet(other_client(&cluster, None, &TLS13), &name, &host, b"").await.refusals();
    assert_eq!(told, alert(AlertDescription::CertificateRequired));
    assert_eq!(seen, Error::NoCertificatesPresented);

    // Everybody sees a certificate; what proves who one is, is the key.
    let stolen = certified(cluster.identity(1).certified().cert.clone(), &cluster.identity(3));
    let (told, seen) = meet(other_client(&cluster, Some(stolen), &TLS13), &name, &host, b"").await.refusals();
    assert_eq!(told, alert(AlertDescription::DecryptError));
    assert_eq!(seen, Error::InvalidCertificate(Invalid::BadSignature));
}

/// Makes a certificate with any names, good for servers and clients, and returns it with its key and `rest` of the chain.
fn issue(issuer: &Issuer<'_, KeyPair>, uri: PeerId, dns: PeerId, rest: &[CertificateDer<'static>]) -> CertifiedKey {
    let mut wish = CertificateParams::default();
    wish.subject_alt_names =
        vec![SanType::URI(uri.to_string().try_into().unwrap()), SanType::DnsName(dns.dns_name().try_into().unwrap())];
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let mut chain = vec![wish.signed_by(&key, issuer).unwrap().der().clone()];
    chain.extend_from_slice(rest);
    let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    CertifiedKey::new(chain, default_provider().key_provider.load_private_key(private).unwrap())
}

/// Returns why a member refuses this chain of a client, and of a server that is dialled as `name`.
async fn refusals_of(cluster: &TestCluster, show: CertifiedKey, name: PeerId) -> [String; 2] {
    let member = tls(cluster, &cluster.identity(3));
    let client = other_client(cluster, Some(show.clone()), &TLS13);
    let host = Host::Peer(member.clone());
    let (_, as_client) = meet(client, &cluster.peer(3).dns_name(), &host, b"").await.refusals();
    let host = other_server(cluster, show, &TLS13, "h2");
    let (as_server, _) = meet(member.client(), &name.dns_name(), &host, b"").await.refusals();
    [format!("{as_client:?}"), format!("{as_server:?}")]
}

#[tokio::test]
async fn a_node_cannot_issue_certificates() {
    let cluster = TestCluster::found();
    let path = cluster.path("identity.pem");
    cluster.identity(1).save(&path).unwrap();
    let KeyFile { key, certificates: [own, authority] } = KeyFile::<2>::read(&path).unwrap();
    let issuer = Issuer::from_ca_cert_der(&own, KeyPair::try_from(&key).unwrap()).unwrap();
    let peer = cluster.peer(2);
    let show = issue(&issuer, peer, peer, &[own, authority]);
    for seen in refusals_of(&cluster, show, peer).await {
        assert!(seen.contains("EndEntityUsedAsCa"), "{seen}");
    }
}

#[tokio::test]
async fn an_authority_that_errs_about_names_is_not_believed() {
    let cluster = TestCluster::found();
    let KeyFile { key, certificates: [own] } = KeyFile::<1>::read(&cluster.path("authority.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_der(&own, KeyPair::try_from(&key).unwrap()).unwrap();
    let (peer, other) = (cluster.peer(2), cluster.peer(1));
    let foreign = TestCluster::found().peer(2);
    for (uri, dns, expected) in [(foreign, foreign, "OtherCluster"), (other, peer, "NotOfNode")] {
        for seen in refusals_of(&cluster, issue(&issuer, uri, dns, &[]), dns).await {
            assert!(seen.contains(expected), "{seen}");
        }
    }
    // With the right names it is one of ours.
    let client = other_client(&cluster, Some(issue(&issuer, peer, peer, &[])), &TLS13);
    let host = Host::Peer(tls(&cluster, &cluster.identity(3)));
    let meeting = meet(client, &cluster.peer(3).dns_name(), &host, b"").await;
    assert_eq!(meeting.server.unwrap().0, Some(peer));
}

#[tokio::test]
async fn older_versions_and_other_protocols_are_refused() {
    let cluster = TestCluster::found();
    let (one, two) = (cluster.identity(1), cluster.identity(2));
    let name = cluster.peer(2).dns_name();
    let host = Host::Peer(tls(&cluster, &two));
    let show = || certified(one.certified().cert.clone(), &one);
    let (told, seen) = meet(other_client(&cluster, Some(show()), &TLS12), &name, &host, b"").await.refusals();
    assert_eq!(told, alert(AlertDescription::ProtocolVersion));
    assert_eq!(seen, Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled));
    // The same in version 1.3 gets in.
    meet(other_client(&cluster, Some(show()), &TLS13), &name, &host, b"").await.server.unwrap();

    let old = other_server(&cluster, certified(two.certified().cert.clone(), &two), &TLS12, "h2");
    let client = tls(&cluster, &one).client();
    let (seen, _) = meet(Arc::clone(&client), &name, &old, b"").await.refusals();
    assert_eq!(seen, alert(AlertDescription::ProtocolVersion));

    let mut config = ClientConfig::clone(&client);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (told, seen) = meet(Arc::new(config), &name, &host, b"").await.refusals();
    assert_eq!(told, alert(AlertDescription::NoApplicationProtocol));
    assert_eq!(seen, Error::NoApplicationProtocol);
    let mut config = ClientConfig::clone(&client);
    config.alpn_protocols = Vec::new();
    let meeting = meet(Arc::new(config), &name, &host, b"").await;
    assert_eq!(meeting.server.unwrap().0, None, "who names no protocol is nobody");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_the_next_connection_on() {
    let cluster = TestCluster::found();
    let (one, two) = (tls(&cluster, &cluster.identity(1)), tls(&cluster, &cluster.identity(2)));
    let (host, name) = (Host::Peer(two.clone()), cluster.peer(2).dns_name());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = || timeout(MEETING_MAX, connect(one.client(), &name, &listener));
    let answer = || async {
        let (stream, _) = listener.accept().await.unwrap();
        timeout(MEETING_MAX, accept(&host, stream)).await.unwrap().unwrap()
    };
    let shown = |connection: &rustls::CommonState| connection.peer_certificates().unwrap()[0].clone();

    let (first, mut answered) = tokio::join!(dial(), answer());
    let mut first = first.unwrap().unwrap();
    // Two days later: what was shown first has ended long since.
    cluster.wait(2 * CERTIFICATE_LIFE);
    let (new_one, new_two) = (cluster.identity(1), cluster.identity(2));
    one.renew(&new_one).unwrap();
    two.renew(&new_two).unwrap();
    let (second, second_answered) = tokio::join!(dial(), answer());
    let second = second.unwrap().unwrap();
    assert_eq!(shown(second.get_ref().1), new_two.certified().cert[0]);
    assert_eq!(shown(second_answered.get_ref().1), new_one.certified().cert[0]);
    assert_ne!(shown(first.get_ref().1), new_two.certified().cert[0]);
    // The connection that stood goes on.
    let mut word = [0; 4];
    first.write_all(b"word").await.unwrap();
    timeout(MEETING_MAX, answered.read_exact(&mut word)).await.unwrap().unwrap();
    assert_eq!(&word, b"word");

    let twin = TestCluster::found_as(cluster.authority.cluster());
    for stranger in [cluster.identity(2), twin.identity(1)] {
        one.renew(&stranger).unwrap_err();
    }
    let (third, third_answered) = tokio::join!(dial(), answer());
    third.unwrap().unwrap();
    assert_eq!(shown(third_answered.get_ref().1), new_one.certified().cert[0]);
}

#[tokio::test]
async fn a_joining_node_shows_its_secret_to_the_pinned_cluster() {
    let cluster = TestCluster::found();
    let token = JoinToken::random(cluster.authority.digest());
    let secret = token.secret().reveal();
    // A joining node knows an address alone.
    let client = Arc::new(join_client(token.authority(), &cluster.clock));
    // Nobody is a member: that is no obstacle to those who are not yet.
    let host = Host::Peer(PeerTls::new(&cluster.identity(2), &cluster.clock, |_| false));
    let meeting = meet(Arc::clone(&client), "127.0.0.1", &host, secret.as_bytes()).await;
    assert_eq!(meeting.server, Ok((None, secret.into_bytes())));
    assert_eq!(meeting.client, Ok((Some(cluster.peer(2)), WELCOME.to_vec())));

    // With the protocol of peers it is refused for want of a certificate.
    let mut config = ClientConfig::clone(&client);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (_, seen) = meet(Arc::new(config), "127.0.0.1", &host, b"").await.refusals();
    assert_eq!(seen, Error::NoCertificatesPresented);

    cluster.wait(CERTIFICATE_LIFE + Duration::from_secs(1));
    let (seen, _) = meet(client, "127.0.0.1", &host, b"").await.refusals();
    assert!(matches!(seen, Error::InvalidCertificate(Invalid::ExpiredContext { .. })), "{seen}");
}

#[tokio::test]
async fn a_joining_node_reveals_nothing_to_anybody_else() {
    let cluster = TestCluster::found();
    let token = JoinToken::random(cluster.authority.digest());
    let (trap, twin) = (TestCluster::found(), TestCluster::found_as(cluster.authority.cluster()));
    let (member, trapper, copycat) = (cluster.identity(2), trap.identity(2), twin.identity(2));
    let leaf = |identity: &Identity| identity.certified().cert[0].clone();
    let ours = cluster.authority.certificate().clone();
    let other_authority = |other: &TestCluster| {
        let (expected, found) = (token.authority(), other.authority.digest());
        PinError::OtherAuthority { expected, found }.to_string()
    };
    for (chain, key, expected) in [
        (vec![leaf(&trapper), trap.authority.certificate().clone()], &trapper, other_authority(&trap)),
        (vec![leaf(&copycat), twin.authority.certificate().clone()], &copycat, other_authority(&twin)),
        // The authority's certificate is no secret: showing it proves nothing.
        (vec![leaf(&trapper), ours.clone()], &trapper, "UnknownIssuer".to_owned()),
        (vec![leaf(&copycat), ours.clone()], &copycat, "BadSignature".to_owned()),
        // Nor does a member's, without its key.
        (vec![leaf(&member), ours.clone()], &trapper, "BadSignature".to_owned()),
        (vec![leaf(&member)], &member, PinError::NoAuthority { sent: 1 }.to_string()),
        (vec![leaf(&member), ours.clone(), ours.clone()], &member, PinError::NoAuthority { sent: 3 }.to_string()),
        (
            vec![leaf(&member), trap.authority.certificate().clone(), ours.clone()],
            &member,
            PinError::NoAuthority { sent: 3 }.to_string(),
        ),
    ] {
        let host = other_server(&cluster, certified(chain, key), &TLS13, "hearth-join-1");
        let client = Arc::new(join_client(token.authority(), &cluster.clock));
        let meeting = meet(client, "127.0.0.1", &host, token.secret().reveal().as_bytes()).await;
        assert!(meeting.server.is_err(), "{expected}: the server heard {:?}", meeting.server);
        let told = match meeting.client.unwrap_err() {
            Error::InvalidCertificate(Invalid::Other(OtherError(ours))) => ours.to_string(),
            other => format!("{other:?}"),
        };
        assert!(told.contains(&expected), "{told}, not {expected}");
    }
    // The same server, honest, is told the secret: what was refused above was refused for its chain.
    let host = other_server(&cluster, certified(vec![leaf(&member), ours], &member), &TLS13, "hearth-join-1");
    let client = Arc::new(join_client(token.authority(), &cluster.clock));
    let meeting = meet(client, "127.0.0.1", &host, b"secret").await;
    assert_eq!(meeting.server.unwrap().1, b"secret");
}
