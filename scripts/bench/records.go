package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/state"
)

const aboutRecords = "A cloud with 100,000 records: 50,000 volumes and 50,000 snapshots of them, as years of " +
	"schedules leave them. The times are of one request by the SDK, its decoding included, and of the whole command for `stead ls`. " +
	"No listing should be slow: a page or one record within 100 ms."

const recordsOfEach = 50_000

// records measures listings where there are very many records.
func records(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("none")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	if _, _, err := s.started(ctx); err != nil { // makes the folder and the keys
		return nil, err
	}
	if err := s.stop(ctx); err != nil {
		return nil, err
	}
	b.say("writing %s records", grouped(2*recordsOfEach))
	id, err := writeRecords(s.data().StateFile())
	if err != nil {
		return nil, err
	}
	ready := row{what: "daemon ready", unit: milliseconds}
	for range b.repeats(5) {
		took, err := s.startAndStop(ctx)
		if err != nil {
			return nil, err
		}
		ready.ours = append(ready.ours, took.Seconds()*1000)
	}
	client, info, err := s.started(ctx)
	if err != nil {
		return nil, err
	}
	rows, err = s.listings(ctx, b, client, id)
	if err != nil {
		return nil, err
	}
	memory := row{what: "memory after it", unit: mebibytes}
	mib, err := residentMiB(info.PID)
	memory.ours = series{mib}
	return append(append([]row{ready}, rows...), memory), err
}

// listings measures what is asked of many records.
func (s *scratch) listings(ctx context.Context, b *bench, client *ec2.Client, volume string) ([]row, error) {
	page := aws.Int32(1000)
	tagged := []types.Filter{{Name: aws.String("tag:Name"), Values: []string{"disk-4711"}}}
	asks := []struct {
		row row
		do  func() error
	}{
		{row{what: "DescribeSnapshots, the first 1,000", target: atMost(100)}, func() error {
			_, err := client.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{MaxResults: page})
			return err
		}},
		{row{what: "DescribeVolumes by one ID", target: atMost(100)}, func() error {
			_, err := client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{volume}})
			return err
		}},
		{row{what: "DescribeVolumes by one tag", target: atMost(100)}, func() error {
			_, err := client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: tagged})
			return err
		}},
		{row{what: "`stead ls`", target: atMost(100)}, func() error {
			_, _, err := s.run(ctx, "ls")
			return err
		}},
		{row{what: "CreateVolume"}, func() error {
			_, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(zone), Size: aws.Int32(1)})
			return err
		}},
	}
	rows := make([]row, len(asks))
	for round := range b.repeats(7) + 1 {
		for i, a := range asks {
			start := time.Now()
			if err := a.do(); err != nil {
				return nil, fmt.Errorf("%s: %w", a.row.what, err)
			}
			if round == 0 { // warms up
				rows[i] = a.row
				rows[i].unit = milliseconds
				continue
			}
			rows[i].ours = append(rows[i].ours, float64(time.Since(start))/float64(time.Millisecond))
		}
	}
	return rows, nil
}

// writeRecords fills the state of a cloud that doesn't run, and gives the ID
// of a volume in the middle.
func writeRecords(path string) (id string, err error) {
	db, err := state.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	const batch = 5000
	for from := 0; from < recordsOfEach; from += batch {
		if err := db.Update(func(tx *state.Tx) error { return putRecords(tx, from, from+batch) }); err != nil {
			return "", err
		}
	}
	return volumeID(recordsOfEach / 2), nil
}

func putRecords(tx *state.Tx, from, to int) error {
	created := time.Now().UTC()
	meta := func(id string, n int) state.Meta {
		return state.Meta{
			Account: cloud.DefaultAccount, Region: cloud.DefaultRegion, ID: id, Created: created,
			Tags: map[string]string{"Name": fmt.Sprintf("disk-%d", n), "owner": "bench", "schedule": "hourly"},
		}
	}
	for n := from; n < to; n++ {
		v := &state.Volume{Meta: meta(volumeID(n), n), State: state.VolumeAvailable, Zone: zone, Size: 8, Type: "gp3", IOPS: 3000, Throughput: 125, Ready: true}
		s := &state.Snapshot{
			Meta: meta(fmt.Sprintf("snap-%017x", n), n), State: "completed", VolumeID: v.ID, VolumeSize: 8,
			Description: "made by the schedule", Progress: 100, DataBytes: 1 << 30, Completed: created,
		}
		if err := errors.Join(state.Put(tx, v), state.Put(tx, s)); err != nil {
			return err
		}
	}
	return nil
}

func volumeID(n int) string { return fmt.Sprintf("vol-%017x", n) }
