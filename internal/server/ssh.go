package server

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	sshPort        = 22
	sshPause       = 200 * time.Millisecond // the guest is asked, not the API
	sshAttempt     = 5 * time.Second        // bounds one connection and its banner
	sshStateChecks = 2 * time.Second        // between two looks at the instance
	maxBannerLines = 32                     // RFC 4253 lets a server send others first
)

// waitReady waits as far as asked for a server whose instance is known to
// have been told to run.
func (m *Manager) waitReady(ctx context.Context, name, instanceID string, wait WaitFor) error {
	if wait == WaitNone {
		return nil
	}
	if err := m.step("wait until running", instanceID, func() error {
		_, err := m.waitInstance(ctx, instanceID, types.InstanceStateNameRunning)
		return err
	}); err != nil {
		return err
	}
	if wait == WaitRunning {
		return nil
	}
	return m.waitSSH(ctx, name)
}

// waitSSH waits until the server's ssh sends its banner. It looks at the
// instance again and again: the address may come late, and a machine that
// died needs no waiting for.
func (m *Manager) waitSSH(ctx context.Context, name string) error {
	s, err := m.Get(ctx, name)
	if err != nil {
		return err
	}
	if !opensSSH(s.Open) {
		m.warn("wait for ssh", name, "port 22 isn't open, so ssh isn't waited for")
		return nil
	}
	looked := m.now()
	return m.step("wait for ssh", name, func() error {
		return m.pollWithin(ctx, min(sshPause, m.pollMax), m.sshTimeout, "ssh to answer", "server "+name, func(ctx context.Context) (bool, error) {
			if s.SSH.Host == "" || m.now().Sub(looked) > sshStateChecks {
				if s, err = m.Get(ctx, name); err != nil {
					return false, err
				}
				looked = m.now()
			}
			if s.State != StateRunning && s.State != StatePending {
				return false, &Error{Op: "wait for ssh", Resource: "server " + name, Code: KindExists, Reason: "it is " + s.State, Remedy: wayBack(name, s.State)}
			}
			return s.SSH.Host != "" && m.sshAnswers(ctx, s.SSH), nil
		})
	})
}

// sshAnswers tells whether an ssh server sends its banner. A connection alone
// proves nothing: forwarders accept before the guest listens.
func (m *Manager) sshAnswers(ctx context.Context, a SSHAddr) bool {
	ctx, cancel := context.WithTimeout(ctx, sshAttempt)
	defer cancel()
	conn, err := m.dial(ctx, "tcp", net.JoinHostPort(a.Host, strconv.Itoa(a.Port)))
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(conn)
	for range maxBannerLines {
		if !lines.Scan() {
			return false
		}
		if strings.HasPrefix(lines.Text(), "SSH-") {
			return true
		}
	}
	return false
}

// opensSSH tells whether a list of ports, as Server.Open has it, has ssh's.
func opensSSH(open []string) bool {
	ports, err := ParsePorts(strings.Join(open, " "))
	if err != nil {
		return false
	}
	for _, p := range ports {
		if p.Proto == "tcp" && p.From <= sshPort && sshPort <= p.To {
			return true
		}
	}
	return false
}

// forwards reads where the endpoint moved ports to.
func forwards(tags tagMap) map[string]int {
	var moved map[string]int
	for key, v := range tags {
		guest, ok := strings.CutPrefix(key, tagPortPrefix)
		host, err := strconv.Atoi(v)
		if !ok || err != nil || host < 1 || host > 65535 {
			continue
		}
		if moved == nil {
			moved = map[string]int{}
		}
		moved[guest] = host
	}
	return moved
}

// sshAddr puts together where and as whom to log in.
func (m *Manager) sshAddr(s *Server, user string) SSHAddr {
	a := SSHAddr{Host: s.PublicIP, Port: sshPort, User: user}
	if a.Host == "" {
		a.Host = s.PrivateIP
	}
	if p, ok := s.Forwards[fmt.Sprint(sshPort)]; ok {
		a.Port = p
	}
	if a.User == "" {
		a.User = "ec2-user"
		if m.local {
			a.User = "root"
		}
	}
	return a
}
