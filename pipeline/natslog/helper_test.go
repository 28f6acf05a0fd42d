package natslog

const helperStore = "DRS_NATSLOG_HELPER_STORE"

func helperMain(string) int { return 0 }
