"""What a job costs, counted rather than timed: fails when commits, statements, thread hops, scans or imports grow."""
