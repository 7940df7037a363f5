package main

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
)

// proxyEnv gives an environment in which programs use a door, and says in one line
// what was set. A NO_PROXY of old is dropped: it would let programs go round the tunnel.
func proxyEnv(old []string, d doorway, sshCommand string) (env []string, said string, err error) {
	host, port, err := net.SplitHostPort(d.address)
	if err != nil {
		return nil, "", fmt.Errorf("describe the door: %w", err)
	}
	set := map[string]string{}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} { // curl, git, Go, Python, Node and many more
		set[name] = d.url("http")
		set[strings.ToLower(name)] = d.url("http")
	}
	for _, name := range []string{"ALL_PROXY", "all_proxy"} { // curl and git, for what is not HTTP
		set[name] = d.url("socks5h")
	}
	set["NODE_USE_ENV_PROXY"] = "1" // Node 24 and newer heed the variables only then
	set["GIT_SSH_COMMAND"] = sshCommand
	set["JAVA_TOOL_OPTIONS"] = javaOptions(old, host, port)

	dropped := []string{"NO_PROXY", "no_proxy"}
	env = slices.DeleteFunc(slices.Clone(old), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := set[name]
		return replaced || slices.Contains(dropped, name)
	})
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env, "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NODE_USE_ENV_PROXY, GIT_SSH_COMMAND and JAVA_TOOL_OPTIONS lead to " + d.address, nil
}

// javaOptions adds to the options there are. Java has no place for a proxy's password
// among them. Its SOCKS would resolve names on this machine, so HTTP goes first.
func javaOptions(old []string, host, port string) string {
	var options []string
	if i := slices.IndexFunc(old, func(entry string) bool { return strings.HasPrefix(entry, "JAVA_TOOL_OPTIONS=") }); i >= 0 {
		_, before, _ := strings.Cut(old[i], "=")
		options = append(options, before)
	}
	for _, proxy := range []string{"http.proxy", "https.proxy", "socksProxy"} {
		options = append(options, fmt.Sprintf("-D%sHost=%s -D%sPort=%s", proxy, host, proxy, port))
	}
	return strings.Join(append(options, "-Dhttp.nonProxyHosts="), " ")
}

// sshProxy is the ProxyCommand that takes ssh through the door in a directory
// or at an address.
func sshProxy(program string, flags ...string) string {
	words := append([]string{program, "pipe"}, flags...)
	for i, word := range words {
		words[i] = shellQuote(word)
	}
	return strings.Join(append(words, "%h", "%p"), " ")
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:,@=+", r))
	})
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// programName is how to call this adit from a shell: by its bare name if that
// finds it.
func programName(executable string) string {
	if found, err := exec.LookPath("adit"); err == nil && found == executable {
		return "adit"
	}
	return executable
}
