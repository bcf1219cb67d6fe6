package price

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
)

// maxCache bounds what is read of a cached file.
const maxCache = 16 << 20

var regionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9-]{1,40}$`) })

// cachePath is where a region's figures are kept under a folder.
func cachePath(dir, region string) (string, error) {
	if !regionName().MatchString(region) {
		return "", fmt.Errorf("%q is no region's name", region)
	}
	return filepath.Join(dir, region+".json"), nil
}

// ReadCache returns the figures that WriteCache kept for a region; none when
// there is no such file.
func ReadCache(dir, region string) ([]Figure, error) {
	path, err := cachePath(dir, region)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxCache {
		err = fmt.Errorf("%d bytes are too many", info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read cached prices %s: %w", path, err)
	}
	list, err := parseCache(data, region)
	if err != nil {
		return nil, fmt.Errorf("read cached prices %s: %w", path, err)
	}
	return list, nil
}

// parseCache takes the figures of one region from a file, and none that lacks
// what every figure has.
func parseCache(data []byte, region string) ([]Figure, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	if d.Version != documentVersion {
		return nil, fmt.Errorf("version %d isn't %d", d.Version, documentVersion)
	}
	for _, f := range d.Figures {
		if f.Region != region || f.Kind == "" || f.Item == "" || f.Unit == "" || f.Date == "" || f.Source == "" {
			return nil, fmt.Errorf("a figure lacks its region, kind, unit, date or source")
		}
	}
	return d.Figures, nil
}

// WriteCache keeps a region's figures under dir, in place of those there.
func WriteCache(dir, region string, figures []Figure) error {
	path, err := cachePath(dir, region)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(document{Version: documentVersion, Figures: figures}, "", "  ")
	if err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	tmp, err := os.CreateTemp(dir, "."+region+"-*")
	if err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	return nil
}
