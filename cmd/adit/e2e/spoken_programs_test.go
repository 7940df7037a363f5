//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// talker is a program that speaks a protocol with a server, which it believes to be on its
// own machine: there the test listens, and goes on through adit. Both are lines of the
// shell's, with the variables host and port, at for both of them, and dir for an empty directory, in which
// they run.
type talker struct {
	title string
	want  string // the protocol that must be on record
	udp   bool
	quiet bool // it fails, as nobody answers
	speak string

	// The server, by a line or in Go. Without either there is somebody who takes what is
	// said first, and says nothing.
	serve string
	by    func(t *testing.T, at string)
}

func talkers() []talker {
	return slices.Concat(webTalkers(), mailTalkers(), fileTalkers(), dataTalkers(), mediaTalkers(), otherTalkers())
}

func webTalkers() []talker {
	const (
		curl        = `curl -sS -m 20 -o /dev/null `
		certificate = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout key -out cert && `
	)
	return []talker{
		{title: "curl, HTTP/1.1", want: "http", by: serveHTTP, speak: curl + `http://$at/`},
		{title: "curl, HTTP/2", want: "http2", by: serveHTTP, speak: curl + `--http2-prior-knowledge http://$at/`},
		{title: "curl and OpenSSL, TLS", want: "tls", serve: certificate + `exec openssl s_server -accept $at -key key -cert cert -www`, speak: curl + `-k https://$at/`},
		{
			title: "ngtcp2, QUIC", want: "quic", udp: true,
			serve: certificate + `exec gtlsserver -q $host $port key cert`,
			speak: `gtlsclient -q --exit-on-all-streams-close $host $port https://media.example.com/`,
		},
		{title: "curl, SOCKS", want: "socks", quiet: true, speak: curl + `-x socks5://$at http://192.0.2.1/`},
	}
}

// dovecot serves PROTOCOL.
const dovecot = `cat >conf <<EOF
base_dir = $dir/run
state_dir = $dir/state
log_path = /dev/stderr
protocols = PROTOCOL
listen = $host
ssl = no
disable_plaintext_auth = no
mail_location = maildir:$dir/mail/%u
default_internal_user = root
default_internal_group = root
default_login_user = nobody
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=$dir/mail
}
service PROTOCOL-login {
  chroot =
  inet_listener PROTOCOL {
    port = $port
  }
  inet_listener PROTOCOLs {
    port = 0
  }
}
EOF
mkdir mail && chmod 777 mail && exec dovecot -F -c conf`

func mailTalkers() []talker {
	return []talker{
		{
			title: "curl and aiosmtpd, SMTP", want: "smtp",
			serve: `exec /usr/bin/python3 -m aiosmtpd -n -l $at`,
			speak: `echo hello | curl -sS -m 20 smtp://$at --mail-from a@example.com --mail-rcpt b@example.com -T -`,
		},
		{title: "curl and Dovecot, IMAP", want: "imap", serve: strings.ReplaceAll(dovecot, "PROTOCOL", "imap"), speak: `curl -sS -m 20 -u alice:x imap://$at/ -X NOOP`},
		{title: "curl and Dovecot, POP3", want: "pop3", serve: strings.ReplaceAll(dovecot, "PROTOCOL", "pop3"), speak: `curl -sS -m 20 -u alice:x pop3://$at/`},
	}
}

func fileTalkers() []talker {
	return []talker{
		{title: "curl and vsftpd, FTP", want: "ftp", by: startFTPAt, speak: `curl -sS -m 20 ftp://$at/ -Q NOOP -I`},
		{title: "curl, TFTP", want: "tftp", udp: true, quiet: true, speak: `curl -sS -m 2 tftp://$at/file`},
		{title: "curl, SMB 1", want: "smb", quiet: true, speak: `curl -sS -m 3 -u a:b smb://$at/share/file`},
		{
			title: "impacket, SMB 2", want: "smb", quiet: true,
			speak: `/usr/bin/python3 -c 'from impacket import smb3; smb3.SMB3("x", "127.0.0.1", sess_port='$port', timeout=20)'`,
		},
		{
			title: "rsync", want: "rsync",
			serve: `printf "[files]\npath = $dir\nuse chroot = no\n" >conf && exec rsync --daemon --no-detach --address $host --port $port --config conf`,
			speak: `rsync --timeout=20 rsync://$at/files/`,
		},
		{
			title: "git", want: "git",
			serve: `git init -q --bare r.git && exec git daemon --export-all --base-path=$dir --listen=$host --port=$port`,
			speak: `git ls-remote git://$at/r.git`,
		},
		{
			title: "aria2, BitTorrent's DHT", want: "bittorrent", udp: true, quiet: true,
			speak: `timeout 2 aria2c -q --enable-dht --dht-entry-point=$at --dht-listen-port=1$port --listen-port=1$port magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567`,
		},
	}
}

const postgreSQL = `chown postgres . && exec runuser -u postgres -- sh -c '
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
initdb -D data -A trust --no-sync >/dev/null && echo host all all 0.0.0.0/0 trust >>data/pg_hba.conf &&
exec postgres -D data -h $host -p $port -k "" -F'`

func dataTalkers() []talker {
	return []talker{
		{title: "psql and PostgreSQL", want: "postgresql", serve: postgreSQL, speak: `psql "postgresql://postgres@$at/postgres?sslmode=disable" -c 'SELECT 1'`},
		{title: "psql, asking for TLS", want: "postgresql", quiet: true, speak: `timeout 20 psql postgresql://postgres@$at/postgres`},
		{title: "redis-cli and Redis", want: "redis", serve: `exec redis-server --bind $host --port $port --save '' --protected-mode no`, speak: `redis-cli -p $port ping`},
		{
			title: "curl and Mosquitto, MQTT", want: "mqtt",
			serve: `printf "listener $port $host\nallow_anonymous true\n" >conf && exec mosquitto -c conf`,
			speak: `curl -sS -m 20 -d hello mqtt://$at/topic`,
		},
		{title: "curl, LDAP", want: "ldap", quiet: true, speak: `timeout 20 curl -sS ldap://$at/dc=example`},
		{title: "nc and memcached", want: "memcached", serve: `exec memcached -u nobody -l $host -p $port`, speak: `printf 'get a\r\nquit\r\n' | nc -w 5 $host $port`},
	}
}

func mediaTalkers() []talker {
	const tone = `ffmpeg -loglevel error -re -f lavfi -i sine=duration=1 `
	return []talker{
		{
			title: "ffmpeg, RTSP", want: "rtsp", serve: `exec ffmpeg -loglevel error -rtsp_flags listen -i rtsp://$at/live -f null -`,
			speak: tone + `-c:a aac -f rtsp -rtsp_transport tcp rtsp://$at/live`,
		},
		{
			title: "ffmpeg, RTMP", want: "rtmp", serve: `exec ffmpeg -loglevel error -listen 1 -i rtmp://$at/live/x -f null -`,
			speak: tone + `-c:a aac -f flv rtmp://$at/live/x`,
		},
		{title: "ffmpeg, RTP", want: "rtp", udp: true, speak: tone + `-c:a pcm_mulaw -f rtp rtp://$at`},
		{title: "SIPp, SIP over UDP", want: "sip", udp: true, quiet: true, speak: `timeout 2 sipp -sn uac $at -m 1 -nostdin -timeout 1`},
		{title: "SIPp, SIP over TCP", want: "sip", quiet: true, speak: `timeout 2 sipp -sn uac $at -m 1 -t t1 -nostdin -timeout 1`},
		{title: "coturn, STUN", want: "stun", udp: true, quiet: true, speak: `timeout 2 turnutils_stunclient -p $port $host`},
	}
}

// javaRegistry asks a registry for the names that it has.
const javaRegistry = `cat >R.java <<'EOF'
class R {
	public static void main(String[] port) throws Exception {
		java.rmi.registry.LocateRegistry.getRegistry("127.0.0.1", Integer.parseInt(port[0])).list();
	}
}
EOF
exec java R.java $port`

// rdpCheck is an example of impacket's that knows one port.
const rdpCheck = `timeout 20 /usr/bin/python3 -c '
import os, runpy, socket, sys
connect = socket.socket.connect
socket.socket.connect = lambda s, at: connect(s, ("127.0.0.1", int(os.environ["port"])))
sys.argv = ["rdp_check", "a:b@127.0.0.1"]
runpy.run_path("/usr/share/doc/python3-impacket/examples/rdp_check.py", run_name="__main__")'`

func otherTalkers() []talker {
	return []talker{
		{title: "ssh-keyscan and sshd", want: "ssh", by: forwardToSSH, speak: `ssh-keyscan -p $port $host`},
		{title: "dig, DNS", want: "dns", udp: true, quiet: true, speak: `dig +tries=1 +time=2 -p $port @$host www.example.com`},
		{title: "dig, DNS over TCP", want: "dns", quiet: true, speak: `dig +tcp +tries=1 +time=20 -p $port @$host www.example.com`},
		{
			title: "snmpget and snmpd", want: "snmp", udp: true,
			serve: `printf "agentAddress udp:$at\nrocommunity public\n" >conf && SNMP_PERSISTENT_DIR=$dir exec snmpd -f -Lo -C -c conf -p $dir/pid`,
			speak: `snmpget -v2c -c public -t 5 udp:$at 1.3.6.1.2.1.1.3.0`,
		},
		{title: "Java and rmiregistry, RMI", want: "rmi", serve: `exec rmiregistry $port`, speak: javaRegistry},
		{title: "omniORB, IIOP", want: "iiop", quiet: true, speak: `timeout 20 nameclt -ORBInitRef NameService=corbaname::$at list`},
		{title: "impacket, RDP", want: "rdp", quiet: true, speak: rdpCheck},
		{title: "curl, TELNET", want: "unknown", quiet: true, speak: `echo hello | curl -sS -m 20 telnet://$at`},
	}
}
