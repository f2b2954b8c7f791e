-- Stands for the 0003 that is being written elsewhere, since migrations are numbered without gaps: drop this file when merging.
SELECT 1;
