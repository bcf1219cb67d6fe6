package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
)

// consoleProtocol names what a control connection turns into: the bytes of a
// serial port, both ways.
const consoleProtocol = "stead-console"

// console turns a request's connection into an instance's serial port.
func (d *daemon) console(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != consoleProtocol {
		http.Error(w, "ask for an upgrade to "+consoleProtocol, http.StatusUpgradeRequired)
		return
	}
	id, scope := r.PathValue("id"), state.Scope{Account: d.cfg.Account, Region: r.PathValue("region")}
	if err := d.cloud.openConsole(r.Context(), scope, id); err != nil {
		http.Error(w, consoleRefusal(id, err), consoleStatus(err))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, err = fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", consoleProtocol)
	if err = errors.Join(err, buffered.Flush()); err == nil {
		err = d.cloud.serveConsole(id, conn)
	}
	d.cfg.Log.Debug("console closed", "instance", id, "err", errors.Join(err, conn.Close()))
}

func consoleStatus(err error) int {
	var api *apiError
	if errors.As(err, &api) {
		return http.StatusNotFound
	}
	return http.StatusPreconditionFailed
}

func consoleRefusal(id string, err error) string {
	if errors.Is(err, machine.ErrNoConsole) {
		return fmt.Sprintf("instance %s was started by an older version, whose serial ports take no input: stop and start it", id)
	}
	var api *apiError
	if errors.As(err, &api) {
		return api.Message
	}
	return err.Error()
}

// Serial connects to the serial port of an instance that runs: what is read
// the guest writes from now on, what is written it reads. Several may be
// connected at once, and all share the one port: each sees all output, and the
// guest reads what any of them writes. A reboot doesn't end the connection; the
// instance's stop, its daemon's end and Close do. region is where the instance
// is, as in the API.
func (c *Control) Serial(ctx context.Context, region, instanceID string) (io.ReadWriteCloser, error) {
	u := url.URL{Scheme: "http", Host: "stead", Path: "/console/" + region + "/" + instanceID}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", consoleProtocol)
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.Join(fmt.Errorf("local cloud: no console: %s", resp.Status), resp.Body.Close())
	}
	return conn, nil
}
