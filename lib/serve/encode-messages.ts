// What goes to the thread that encodes long texts, and what comes back.

export interface EncodeJob {
  id: number
  text: string
  /** With what the tokenizer puts before a text; false: the text writes its own special tokens. */
  open: boolean
}

export type EncodeReply = { id: number; tokens: number[] } | { id: number; message: string }
